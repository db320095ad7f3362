package backup

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/backup/blockshare"
	"holdfast/internal/backup/known"
	"holdfast/internal/evidence"
	"holdfast/internal/image"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// imageReading says which sections an image has. All are cut at
// multiples of grid, so that none depends on another.
type imageReading struct {
	p    *pipeline
	img  *image.Image
	grid int64
	same *blockshare.Image // shares blocks with other images on this host; nil for none

	// What follows is for one goroutine at a time.
	end   int64            // the end of the sections so far
	todo  []snapshot.Range // the ranges left to read, in order
	kept  func() (vault.Extent, bool, error)
	ahead vault.Extent // of kept, when its Len is not 0

	keeps  bool // something of the base was kept
	faults imageFaults
}

// image backs up one source that is an image.
func (r *run) image(ctx context.Context, s Source) (_ vault.Volume, err error) {
	img, err := image.Open(s.Root)
	if err != nil {
		return vault.Volume{}, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	p, err := newPipeline(r, nil, s)
	if err != nil {
		return vault.Volume{}, err
	}
	if len(s.Exclude) > 0 || s.ExcludeCaches {
		p.warnings.Warn(tree.Warning{NoPlace: true, What: "the volume is an image, which has no paths: the patterns of what to leave out are not applied"})
	}
	rec, err := r.w.NewRecipe(r.packs)
	if err != nil {
		return vault.Volume{}, err
	}
	u := newLarge(&tree.Entry{Kind: tree.File, Mode: 0o600, Size: img.Size()})
	vol := vault.Volume{Name: s.Volume, Kind: vault.KindImage, FileSystem: evidence.FileSystem(img.File())}
	volume := s.volume()
	round := r.history.Round(volume, vol.FileSystem)
	if round != nil {
		rec.Tap = round.Page
	}
	base, feed := r.history.Image(ctx, volume, u.done)
	reading := p.readingOf(img, base)
	u.read = func(ctx context.Context, w *worker) error { return w.image(ctx, u, reading) }
	p.name, p.by = s.Volume, known.ByBase
	shared := blockshare.Run{Vault: r.o.Vault, Precopy: r.o.Precopy, Without: r.history.Without, Sends: r.w.Began, Arrivals: r.sending}
	reading.same = r.o.Pool.blocks.Open(shared, img, s.View, s.Root, reading.grid)
	defer reading.same.Close()
	vol, err = p.flow(ctx, rec, vol, func(ctx context.Context) error {
		r.counts.entries.Add(1)
		r.counts.files.Add(1)
		if err := p.send(ctx, u); err != nil || feed == nil {
			return err
		}
		return feed(ctx)
	})
	if err != nil {
		return vault.Volume{}, err
	}
	// no base: content that this backup lacks, the next backup would lack without a word
	if p.doubtful.Load() {
		round.Drop()
	} else {
		r.images = append(r.images, s.Volume)
	}
	return vol, r.history.BecameZeros(volume, vol)
}

// readingOf reads the image, with a base only what changed since.
func (p *pipeline) readingOf(img *image.Image, base *known.ImageBase) *imageReading {
	r := &imageReading{p: p, img: img, grid: int64(min(image.Chunk, p.cutter.Params().Max))}
	r.faults.end = noEnd
	if base == nil {
		r.todo = []snapshot.Range{{Length: img.Size()}}
		return r
	}
	r.kept = base.Next
	for _, c := range base.Changed {
		from, to := c.Offset/r.grid*r.grid, min((c.End()+r.grid-1)/r.grid*r.grid, img.Size())
		if n := len(r.todo); n > 0 && from <= r.todo[n-1].End() {
			from = r.todo[n-1].Offset
			r.todo = r.todo[:n-1]
		}
		if to > from {
			r.todo = append(r.todo, snapshot.Range{Offset: from, Length: to - from})
		}
	}
	return r
}

// image reads an image and sends its extents.
func (w *worker) image(ctx context.Context, u *unit, r *imageReading) error {
	defer close(u.storedParts)
	s := &sender{ctx: ctx, u: u, size: r.img.Size()}
	read := func() (reader, bool, error) { return r.next(ctx) }
	if err := w.readAll(ctx, read, s); err != nil {
		return err
	}
	if err := r.tell(u.entries[0], s); err != nil {
		return err
	}
	return s.flush()
}

// next is the next section: the kept extents up to where reading begins, or a range to read.
func (r *imageReading) next(ctx context.Context) (reader, bool, error) {
	for len(r.todo) > 0 && r.todo[0].Offset == r.end {
		t := &r.todo[0]
		data := r.img.NextData(t.Offset, t.End())
		if data.Len == 0 { // nothing but a hole
			r.end = t.End()
			r.todo = r.todo[1:]
			continue
		}
		from := data.Off / r.grid * r.grid
		section := max(int64(r.p.sectionSize())/r.grid, 1) * r.grid
		to := min(from+section, (data.Off+data.Len+r.grid-1)/r.grid*r.grid, t.End())
		r.end = to
		if *t = (snapshot.Range{Offset: to, Length: t.End() - to}); t.Length == 0 {
			r.todo = r.todo[1:]
		}
		return func(w *worker) (known.Stretch, error) { return r.section(ctx, w, from, to) }, len(r.todo) > 0, nil
	}
	to := r.img.Size()
	if len(r.todo) > 0 {
		to = r.todo[0].Offset
	}
	if r.end >= to {
		return nil, false, nil
	}
	kept, err := r.keep(to)
	if err != nil {
		return nil, false, err
	}
	return func(w *worker) (known.Stretch, error) {
		for _, x := range kept {
			if !r.p.picks() {
				continue
			}
			if err := w.check(ctx, newContent(r.img.File(), r.img.Size(), false), "", x); err != nil {
				return known.Stretch{}, err
			}
		}
		return known.Stretch{Extents: kept}, nil
	}, true, nil
}

// keep takes extents of the base from r.end on, before to, no more than a part of a recipe has.
func (r *imageReading) keep(to int64) ([]vault.Extent, error) {
	kept := []vault.Extent{}
	for r.kept != nil && len(kept) < partExtents {
		if r.ahead.Len == 0 {
			x, ok, err := r.kept()
			if err != nil {
				return nil, fmt.Errorf("read the extents of the base: %w", err)
			}
			if !ok {
				r.kept = nil
				break
			}
			r.ahead = x
		}
		x := r.ahead
		if x.Off >= to {
			break
		}
		end := x.Off + int64(x.Len)
		if end > to { // the rest is for later, or is read
			r.ahead = known.Clip(x, to, end)
		} else {
			r.ahead = vault.Extent{}
		}
		if x = known.Clip(x, max(x.Off, r.end), min(end, to)); x.Len > 0 {
			kept = append(kept, x)
			r.keeps = true
			r.p.counts.known.Add(uint64(x.Len))
		}
	}
	if len(kept) == partExtents && r.kept != nil {
		last := kept[len(kept)-1]
		r.end = last.Off + int64(last.Len)
	} else {
		r.end = to
	}
	return kept, nil
}

// section reads the chunks from from to to, except the chunks that the
// vault has from another image on the same blocks, and stores them.
func (r *imageReading) section(ctx context.Context, w *worker, from, to int64) (known.Stretch, error) {
	if n := int(to - from); cap(w.buf) < n {
		w.buf = make([]byte, 0, r.p.sectionSize()+r.p.cutter.Params().Max)
	}
	s := &imageSection{
		w: w, img: r.img, grid: r.grid, faults: &r.faults, at: from, buf: w.buf[:to-from], faulty: map[int]bool{}, stop: int(to - from),
	}
	s.extents = make([]vault.Extent, (to-from+r.grid-1)/r.grid)
	mine := r.same.Claim(from, len(s.extents))
	defer mine.Release()
	if err := s.read(mine.Unshared()); err != nil {
		return known.Stretch{}, err
	}
	mine.Publish(s)
	mine.Release()
	rest, err := mine.FromOthers(ctx, s)
	if err != nil {
		return known.Stretch{}, err
	}
	if err := s.read(rest); err != nil {
		return known.Stretch{}, err
	}
	if err := mine.Check(s); err != nil {
		return known.Stretch{}, err
	}
	stored := s.extents[:0]
	for _, x := range s.extents {
		if x.Len > 0 {
			stored = append(stored, x)
		}
	}
	return known.Stretch{Extents: stored}, nil
}

// tell tells, after all was read, what of the image is not as its size and its
// content were at one moment, and brings e, its entry, up to date while the
// recipe does not have it. It is an error when nothing of the image can be read.
func (r *imageReading) tell(e *tree.Entry, s *sender) error {
	f, path, size := &r.faults, r.img.File().Name(), r.img.Size()
	if len(f.bad) > 0 {
		if !f.any && !r.keeps {
			return fmt.Errorf("read image %s: none of it can be read: %w", path, f.reason)
		}
		r.lost(fmt.Sprintf("%d bytes of the image can't be read (%v), and are zeros in the backup: bytes %v", f.bytes, f.reason, f))
	}
	changed, err := r.img.Changed()
	if err = faultOf("stat image", path, err); err != nil && !isFault(err) {
		return err
	}
	length := min(f.end, size)
	if length < size && !s.streaming {
		e.Size = max(length, s.end())
	}
	switch {
	case changed || err != nil:
		r.lost("the image changed while it was read; its content is of no single moment")
	case length == size:
	case s.streaming || s.end() > length || !r.endsAt(length):
		r.lost(fmt.Sprintf("the image ended at byte %d while it was read, before its size of %d", length, size))
	default:
		r.p.tellSize(path, size, length)
	}
	return nil
}

// lost tells of content of the image that the backup does not have
// as it was, and keeps the backup from being a base.
func (r *imageReading) lost(what string) {
	r.p.lost(r.img.File().Name(), what)
	r.p.doubtful.Store(true)
}

func (r *imageReading) endsAt(length int64) bool {
	exact, err := tree.EndsAt(r.img, length)
	return err == nil && exact
}
