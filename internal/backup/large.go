package backup

import (
	"context"
	"fmt"

	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// largeFile reads one file and sends its extents.
func (w *worker) largeFile(ctx context.Context, u *unit) error {
	defer close(u.storedParts)
	f, fresh, err := w.p.open(u, 0)
	if f == nil || err != nil {
		return err
	}
	defer f.Close() // nothing was written
	e := u.entries[0]
	s := &sender{ctx: ctx, u: u}
	for r := w.p.reading(e, f); ; {
		s.todo = known.Stretch{Extents: s.todo.Extents[:0], Sums: s.todo.Sums[:0]}
		if s.size, err = r.measured(); err == nil {
			if c := r.begin(s.size); u.former != nil && !u.former.Compare && r.try == 0 && !fresh {
				err = w.patchFile(ctx, c, e.Path, u.former, s)
			} else {
				err = w.spread(ctx, c, u.former, s)
			}
		}
		if s.streaming {
			if err := w.endStream(r, s, err); err != nil {
				return err
			}
			return s.flush()
		}
		done := false
		if err == nil {
			done, err = r.settled(s.end(), s.sum)
		}
		if err != nil {
			return w.p.leaveOut(u, 0, err)
		}
		if done {
			return s.flush()
		}
	}
}

// endStream tells the fault of a file whose item the recipe already
// has, with the size that was known when its reading began: the file
// can neither be left out nor read again. err ended its reading.
func (w *worker) endStream(r *reading, s *sender, err error) error {
	at, length := s.end(), r.c.length()
	switch {
	case isFault(err):
		w.p.lost(r.was.Path, fmt.Sprintf("it could not be read from byte %d on (%v); a restore has zeros there", at, err))
	case err != nil:
		return err
	case length < s.size:
		w.p.lost(r.was.Path, fmt.Sprintf("it ended at byte %d of %d while it was read; a restore has zeros behind", length, s.size))
	default:
		same, err := r.unchanged()
		if err != nil && !isFault(err) {
			return err
		}
		if !same {
			w.p.lost(r.was.Path, "it changed while it was read; its content is of no single moment")
		}
		return nil
	}
	// Its inode may show no change ever after, and nothing in the
	// recipe tells that it has not all of the content.
	w.p.doubtful.Store(true)
	return nil
}

// fileReading says which sections a large file has.
type fileReading struct {
	p    *pipeline
	c    *content
	cuts cuts
	old  *known.Frames // of a database
	end  int64         // of the last range of data
	rest tree.Range    // the part that no worker took
	link chan int64    // will say where the first chunk in rest begins
}

// part is a section of a file, with its turn: where its first chunk
// begins comes from the section before and goes to the one behind. Every
// part that was taken passes something on, so nobody waits for ever.
type part struct {
	at   int64
	size int
	left int64 // up to the end of the range
	from chan int64
	next chan int64
}

// spread reads the file once and gives its extents to s in their order.
func (w *worker) spread(ctx context.Context, c *content, former *known.File, s *sender) error {
	grid, err := frameOf(c, c.size, w.p.cutter.Params().Max)
	if err != nil {
		return err
	}
	r := &fileReading{p: w.p, c: c, cuts: cuts{w.p.cutter, grid}}
	if former != nil && grid > 0 {
		r.old = known.NewFrames(former.Stretch, w.p.history.Without)
	}
	return w.readAll(ctx, func() (reader, bool, error) { return r.next(ctx) }, s)
}

// next is the next section of the file.
func (r *fileReading) next(ctx context.Context) (reader, bool, error) {
	if r.rest.Len == 0 {
		// Not iter.Pull2 of all ranges: workers in the background are
		// bound to their threads, and only one of them could call that.
		data := r.c.next(r.end)
		if data.Len == 0 {
			return nil, false, nil
		}
		r.end = data.Off + data.Len
		r.rest, r.link = data, make(chan int64, 1)
		r.link <- data.Off
	}
	p := &part{at: r.rest.Off, left: r.rest.Len, from: r.link, next: make(chan int64, 1)}
	p.size = int(min(r.rest.Len, int64(r.p.sectionSize())))
	r.rest.Off, r.rest.Len, r.link = r.rest.Off+int64(p.size), r.rest.Len-int64(p.size), p.next
	return func(w *worker) (known.Stretch, error) { return r.readSection(ctx, w, p) }, r.rest.Len > 0, nil
}

// readSection reads, cuts and stores a section.
func (r *fileReading) readSection(ctx context.Context, w *worker, p *part) (known.Stretch, error) {
	most := r.p.cutter.Params().Max
	if n := r.p.sectionSize() + most; cap(w.buf) < n {
		w.buf = make([]byte, 0, n)
	}
	s := &section{cuts: r.cuts, src: r.c, at: p.at, size: p.size, left: p.left, buf: w.buf[: 0 : p.size+most]}
	err := s.cutAhead()
	from, next := <-p.from, int64(none)
	if err == nil && from != none {
		next, err = s.cutFrom(from)
	}
	p.next <- next
	if err != nil {
		return known.Stretch{}, err
	}
	r.p.counts.read.Add(uint64(min(len(s.buf), s.size)))
	if from == none {
		return known.Stretch{}, nil
	}
	if r.cuts.grid > 0 {
		return w.storeFrames(ctx, r.old, s.buf, s.at, int(from-s.at), s.ends)
	}
	at := int(from - s.at)
	stored, err := w.storeAll(s.buf, at, s.ends)
	if err != nil {
		return known.Stretch{}, err
	}
	extents := make([]vault.Extent, len(s.ends))
	for i, end := range s.ends {
		extents[i] = vault.Extent{Off: s.at + int64(at), Chunk: stored[i].Loc, Len: uint32(end - at)}
		at = end
	}
	return known.Stretch{Extents: extents}, nil
}

// newLargeFile makes the unit of a file that is read by itself.
func newLargeFile(e *tree.Entry) *unit {
	u := newLarge(e)
	u.read = func(ctx context.Context, w *worker) error { return w.largeFile(ctx, u) }
	return u
}
