package backup

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"holdfast/internal/backup/known"
	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/pattern"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// How a volume becomes a recipe: one goroutine walks and makes units, in the order of the
// walk; the workers take units, read their content, cut it and store the chunks; the caller's
// goroutine takes the finished units in the order of the walk and writes the recipe. A unit
// is a run of entries whose files are small, which share chunks, or one large file.

const (
	// bundleMax is the content of a bundle, bytes. A larger file is a unit of its own.
	bundleMax = known.SmallFile
	// bundleMin is from where on a bundle may end at a place that its names choose, so
	// that a file more or less moves the ends of one bundle and not of all that follow.
	bundleMin     = 128 << 10
	bundleEntries = 512
	// sectionMin is how much of a large file a worker takes at a time, bytes, at the
	// least. Twice as much saves no time that can be measured, and every worker holds one.
	sectionMin = 1 << 20
	// ahead is how many units may be on their way between walk and recipe.
	ahead = 128
	// A unit ends when it keeps unitWeight bytes in memory beside content, and
	// aheadWeight bounds the sum of those bytes on their way. Few trees reach it: long
	// paths, large attributes, or the extents of large files that did not change.
	unitWeight  = 1 << 20
	aheadWeight = 32 << 20
	// The memory of a tree.Entry, bytes.
	entryMemory = 256
	// A large file's extents reach the recipe in parts. Up to wholeExtents
	// (4 GiB of average chunks) the first is sent when the file was read
	// to its end and had not changed; a larger file is not held back.
	partExtents  = vault.MaxExtents / 4
	partsAhead   = wholeExtents / partExtents
	wholeExtents = known.WholeExtents
)

// workerMemory is about the memory of one worker, bytes: a section
// with the end of its last chunk, or a bundle, and zstd's tables.
func workerMemory(least, most seal.Level) int64 {
	n := int64(sectionMin + 512<<10)
	for l := least; l <= most; l++ {
		n += l.Memory()
	}
	return n
}

type unit struct {
	entries []*tree.Entry
	large   bool // entries has one file, or image, whose extents come through parts
	// read reads and stores the content of the unit
	read   func(context.Context, *worker) error
	size   int64
	weight int64 // bytes of entries and known extents, about
	// of each entry, nil where its content has to be read; nil when all have to
	known  [][]vault.Extent
	sums   map[int][]vault.PieceSum // of the entries of known that are databases
	check  []int                    // entries of known that are read all the same
	former *known.File              // the facts about a large file that changed in part
	parts  chan known.Stretch
	done   chan struct{}

	// What follows is the worker's until done is closed, or of a large file
	// until the first part comes or parts is closed; then it is the recipe's.
	// So are the entries, which a worker brings up to date, or takes out: nil.
	extents [][]vault.Extent // of each entry
	late    []int            // entries that are files too large for a bundle, ascending
	// paths at which is not the file that the walk saw, of which it saw further names
	moved []string
}

type pipeline struct {
	*run
	root *tree.Root // nil for an image
	// warnings collects the warnings of this volume. It hides the
	// run's warnings, so that each loss is known with its volume.
	warnings *volumeWarnings
	away     *vanished                                  // nil for an image
	exclude  func(path string, folder func() bool) bool // nil excludes nothing
	cutter   *chunk.Cutter
	before   *known.Previous    // the facts of the last backup; nil when there are none
	name     string             // of the volume
	by       string             // how unchanged files are known: ByBase or ByTimes
	units    chan *unit         // to the workers
	pass     chan *unit         // from a worker that waits for memory to a worker that has memory
	order    chan *unit         // the same, to the recipe
	help     chan func(*worker) // work that an idle worker may take
	want     chan struct{}      // 1 token: there is such work, and nobody took it
	weight   *semaphore.Weighted
	heirs    heirs   // for the recipe's goroutine
	late     *worker // that goroutine's own; nil while it had nothing to read
	// doubtful says that the recipe has a file that lacks content, and
	// that the next backup may find unchanged: no catalogue of it is kept.
	doubtful atomic.Bool
}

// volume backs up one source.
func (r *run) volume(ctx context.Context, s Source) (vault.Volume, error) {
	info, err := os.Stat(s.Root)
	if err != nil {
		return vault.Volume{}, err
	}
	if !info.IsDir() {
		return r.image(ctx, s)
	}
	root, err := tree.OpenRoot(s.Root)
	if err != nil {
		return vault.Volume{}, err
	}
	defer root.Close()
	for path, folder := range s.Nested {
		if err := root.Graft(path, folder); err != nil {
			return vault.Volume{}, err
		}
	}
	p, err := r.pipeline(root, s)
	if err != nil {
		return vault.Volume{}, err
	}
	rec, err := r.w.NewRecipe(r.packs)
	if err != nil {
		return vault.Volume{}, err
	}
	vol := vault.Volume{Name: s.Volume, Kind: vault.KindTree, FileSystem: root.FileSystem()}
	cat := r.history.Catalogue(ctx, root, s.volume())
	if cat != nil && cat.Rows {
		p.before = cat.Before
		p.name, p.by = s.Volume, cat.By()
		rec.Tap = cat.Page
		// else no later backup could believe them
		if rec.KeepStats = cat.Rests.Mounted != ""; rec.KeepStats {
			vol.SetEvidence(cat.Rests)
		}
	}
	vol.Excludes, vol.ExcludeCaches = s.Exclude, s.ExcludeCaches
	vol, err = p.flow(ctx, rec, vol, func(ctx context.Context) error { return p.walk(ctx, s.ExcludeCaches) })
	if err == nil && !r.o.Precopy { // the backup has the entries that a round lacks
		err = p.away.settle(ctx, root, p.exclude)
	}
	if p.doubtful.Load() {
		vol.Stats = nil
		cat.Drop()
	}
	return vol, err
}

// pipeline makes the pipeline of a source; root is nil for an image.
func (r *run) pipeline(root *tree.Root, s Source) (*pipeline, error) {
	warnings, err := newVolumeWarnings(s, root == nil, &r.losses, r.warnings.Warn)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		run: r, root: root, warnings: warnings, cutter: r.o.Vault.Cutter(),
		units: make(chan *unit, ahead), pass: make(chan *unit), order: make(chan *unit, ahead), help: make(chan func(*worker)), want: make(chan struct{}, 1),
		weight: semaphore.NewWeighted(aheadWeight),
	}
	if root == nil {
		return p, nil
	}
	p.away = &vanished{waits: !s.Quiet && !root.Still() && root.KeepsNumbers(), warn: warnings.Warn}
	exclude, err := pattern.Compile(s.Exclude)
	if err != nil {
		return nil, fmt.Errorf("exclude: %w", err)
	}
	if exclude != nil {
		p.exclude = exclude.Match
	}
	return p, nil
}

// flow makes the recipe of a volume whose units feed sends.
func (p *pipeline) flow(ctx context.Context, rec *vault.RecipeWriter, vol vault.Volume, feed func(context.Context) error) (vault.Volume, error) {
	g, gctx := contain.WithContext(ctx)
	wctx, end := context.WithCancelCause(gctx)
	defer end(errEnded)
	g.Go(func() error {
		defer close(p.order)
		defer close(p.units)
		return feed(gctx)
	})
	g.Go(func() error { return p.work(wctx, true) })
	for range p.o.On.lent {
		g.Go(func() error { return p.work(wctx, false) })
	}
	g.Go(func() error {
		defer end(errEnded) // nobody needs help any more
		return p.record(gctx, rec, &vol)
	})
	if err := g.Wait(); err != nil {
		return vault.Volume{}, err
	}
	var err error
	vol.Lists, err = rec.Finish()
	vol.Stats = rec.Stats()
	return vol, err
}

// send sends a unit to a worker and to the recipe.
func (p *pipeline) send(ctx context.Context, u *unit) error {
	u.weight = min(u.weight, aheadWeight) // one alone passes in any case
	if err := p.weight.Acquire(ctx, u.weight); err != nil {
		return context.Cause(ctx)
	}
	// order comes first: then the unit for which the recipe
	// waits is on its way to a worker, or the context ends.
	for _, c := range []chan *unit{p.order, p.units} {
		select {
		case c <- u:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// walked is told of each entry of a walk; nil but for tests.
var walked func(path string)

// walk makes units.
func (p *pipeline) walk(ctx context.Context, excludeCaches bool) error {
	b := newBundle()
	sendBundle := func() error {
		if len(b.entries) == 0 {
			return nil
		}
		full := b
		b = newBundle()
		return p.send(ctx, full)
	}
	sendFull := func() error {
		if b.size < bundleMax && len(b.entries) < bundleEntries && b.weight < unitWeight {
			return nil
		}
		return sendBundle()
	}
	o := tree.WalkOptions{Warn: p.warnings.Warn, Vanished: p.away.add, ExcludeCaches: excludeCaches}
	if p.exclude != nil {
		o.Exclude = func(path string, folder func() bool) bool {
			out := p.exclude(path, folder)
			if out {
				p.counts.excluded.Add(1)
			}
			return out
		}
	}
	err := p.root.Walk(ctx, o, func(e *tree.Entry) error {
		p.away.stored(e)
		if walked != nil {
			walked(e.Path)
		}
		p.counts.entries.Add(1)
		file := e.Kind == tree.File && !e.HasLinkTo
		content := file && e.Size > 0
		if e.Kind == tree.File {
			p.counts.files.Add(1)
		}
		var changed *known.File
		if file && p.before != nil {
			k, ok := p.before.Find(e)
			switch {
			case ok && k.Same:
				b.setKnown(k.Stretch)
				if len(k.Extents) > 0 && p.picks() {
					b.check = append(b.check, len(b.entries))
				}
				b.entries = append(b.entries, e)
				b.weight += weightOf(e) + k.Memory()
				p.counts.unchanged.Add(1)
				for _, x := range k.Extents {
					p.counts.known.Add(uint64(x.Len))
				}
				return sendFull()
			case ok:
				changed = &k
			}
		}
		if content && e.Size > bundleMax {
			if err := sendBundle(); err != nil {
				return err
			}
			u := newLargeFile(e)
			u.former = changed
			if changed != nil {
				u.weight += changed.Memory()
			}
			return p.send(ctx, u)
		}
		b.entries = append(b.entries, e)
		b.weight += weightOf(e)
		if content {
			b.size += e.Size
		}
		if b.size >= bundleMin && endsBundle(e.Path) {
			return sendBundle()
		}
		return sendFull()
	})
	if err != nil {
		return err
	}
	return sendBundle()
}

// weightOf is about how much memory an entry takes, bytes.
func weightOf(e *tree.Entry) int64 {
	n := entryMemory + len(e.Path) + len(e.Target) + len(e.LinkTo)
	for i := range e.Xattrs {
		n += len(e.Xattrs[i].Name) + len(e.Xattrs[i].Value)
	}
	return int64(n)
}

func newBundle() *unit {
	u := &unit{done: make(chan struct{})}
	u.read = func(ctx context.Context, w *worker) error { return w.bundle(ctx, u) }
	return u
}

// postpone leaves entry i, a file, to whoever writes the recipe.
func (u *unit) postpone(i int) { u.late = append(u.late, i) }

// setKnown notes the content of the entry that is added next.
func (u *unit) setKnown(x known.Stretch) {
	for len(u.known) < len(u.entries) {
		u.known = append(u.known, nil)
	}
	u.known = append(u.known, x.Extents)
	if len(x.Sums) > 0 {
		if u.sums == nil {
			u.sums = map[int][]vault.PieceSum{}
		}
		u.sums[len(u.known)-1] = x.Sums
	}
}

// endsBundle is true for one path in eight, and depends on nothing but the path.
func endsBundle(path string) bool {
	h := uint32(2166136261) // FNV-1a
	for i := range len(path) {
		h = (h ^ uint32(path[i])) * 16777619
	}
	return (h^h>>16)&7 == 0
}

// sectionSize is how much of a large file a worker takes at a time, bytes: no less than the
// largest chunk, so that a chunk that begins in a section ends before the next but one.
func (p *pipeline) sectionSize() int { return max(sectionMin, p.cutter.Params().Max) }

// work is one worker: the Run's own worker, which always has memory, or a lent worker,
// which has memory while there is work and no other Run waits for it. A worker without
// memory takes no part of another worker's work, since the other one would wait for it.
func (p *pipeline) work(ctx context.Context, own bool) error {
	if p.o.Precopy {
		inBackground()
	}
	w := newWorker(p)
	host, units := p.o.On, p.units
	var hand chan<- *scratch
	if own {
		w.own, w.scratch = true, &scratch{}
	} else {
		hand = host.hand
		defer func() {
			if w.scratch != nil {
				host.giveBack(w.scratch)
			}
		}()
	}
	ended := func() error {
		if context.Cause(ctx) == errEnded {
			return nil
		}
		return context.Cause(ctx)
	}
	for {
		var u *unit
		if w.scratch == nil {
			ok := true
			select {
			case u, ok = <-units:
			case <-p.want:
			case <-ctx.Done():
				return ended()
			}
			if !ok {
				units = nil // no more of those, but others may need help
				continue
			}
			var err error
			if w.scratch, err = host.borrow(ctx, u, p.pass); err != nil {
				return ended()
			}
			if w.scratch == nil {
				continue // somebody else does it
			}
		} else {
			ok := true
			select {
			case u, ok = <-units:
			case u = <-p.pass: // else a unit could wait for other backups while this Run's own worker is idle
			case f := <-p.help:
				f(w)
			case hand <- w.scratch:
				w.scratch = nil
			case <-ctx.Done():
				return ended()
			}
			if !ok {
				units = nil
				continue
			}
		}
		if u == nil {
			continue
		}
		if err := p.do(ctx, w, u); err != nil {
			return err
		}
	}
}

// do is one unit.
func (p *pipeline) do(ctx context.Context, w *worker, u *unit) error {
	began := time.Now()
	if err := u.read(ctx, w); err != nil {
		return err
	}
	close(u.done)
	if u.large {
		return nil // it rested between its sections
	}
	return p.rest(ctx, began)
}
