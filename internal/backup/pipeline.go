package backup

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"holdfast/internal/backup/known"
	"holdfast/internal/chunk"
	"holdfast/internal/pattern"
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

type unit struct {
	entries []*tree.Entry
	large   bool // entries has one file, or image, whose extents come through parts
	// read reads and stores the content of the unit
	read   func(context.Context, *worker) error
	size   int64
	weight int64 // bytes of entries and known extents, about
	// of each entry, nil where its content has to be read; nil when all have to
	known       [][]vault.Extent
	sums        map[int][]vault.PieceSum // of the entries of known that are databases
	check       []int                    // entries of known that are read all the same
	former      *known.File              // the facts about a large file that changed in part
	storedParts chan known.Stretch
	done        chan struct{}

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
	warnings      *volumeWarnings
	away          *vanished                                  // nil for an image
	exclude       func(path string, folder func() bool) bool // nil excludes nothing
	cutter        *chunk.Cutter
	before        *known.Previous    // the facts of the last backup; nil when there are none
	name          string             // of the volume
	by            string             // how unchanged files are known: ByBase or ByTimes
	toWorkers     chan *unit         // units that no worker has taken
	toOtherWorker chan *unit         // from a worker that waits for memory to a worker that has memory
	toRecipe      chan *unit         // all units, in the order of the walk, to the recipe
	tasks         chan func(*worker) // work that an idle worker may take
	taskWaits     chan struct{}      // 1 token: there is a task, and no worker took it
	weight        *semaphore.Weighted
	// doubtful says that the recipe has a file that lacks content, and
	// that the next backup may find unchanged: no catalogue of it is kept.
	doubtful atomic.Bool
}

// send sends a unit to a worker and to the recipe.
func (p *pipeline) send(ctx context.Context, u *unit) error {
	u.weight = min(u.weight, aheadWeight) // one alone passes in any case
	if err := p.weight.Acquire(ctx, u.weight); err != nil {
		return context.Cause(ctx)
	}
	// order comes first: then the unit for which the recipe
	// waits is on its way to a worker, or the context ends.
	for _, c := range []chan *unit{p.toRecipe, p.toWorkers} {
		select {
		case c <- u:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// weightOf is about how much memory an entry takes, bytes.
func weightOf(e *tree.Entry) int64 {
	n := entryMemory + len(e.Path) + len(e.Target) + len(e.LinkTo)
	for i := range e.Xattrs {
		n += len(e.Xattrs[i].Name) + len(e.Xattrs[i].Value)
	}
	return int64(n)
}

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

// sectionSize is how much of a large file a worker takes at a time, bytes: no less than the
// largest chunk, so that a chunk that begins in a section ends before the next but one.
func (p *pipeline) sectionSize() int { return max(sectionMin, p.cutter.Params().Max) }

// newLarge makes a unit without read, whose extents come in parts.
func newLarge(e *tree.Entry) *unit {
	return &unit{
		entries: []*tree.Entry{e}, large: true, weight: weightOf(e),
		storedParts: make(chan known.Stretch, partsAhead), done: make(chan struct{}),
	}
}

// newPipeline makes the pipeline of a source; root is nil for an image.
func newPipeline(r *run, root *tree.Root, s Source) (*pipeline, error) {
	warnings, err := newVolumeWarnings(s, root == nil, &r.losses, r.warnings.Warn)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		run: r, root: root, warnings: warnings, cutter: r.o.Vault.Cutter(),
		toWorkers: make(chan *unit, ahead), toOtherWorker: make(chan *unit), toRecipe: make(chan *unit, ahead), tasks: make(chan func(*worker)), taskWaits: make(chan struct{}, 1),
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

// worker reads, cuts, names, compresses and stores. It belongs to
// one goroutine. Without memory it can do nothing.
type worker struct {
	*workerMemory
	p     *pipeline
	namer *chunk.Namer
	own   bool // of its Run: its memory is never given to another
}

func newWorker(p *pipeline) *worker { return &worker{p: p, namer: p.o.Vault.Namer()} }
