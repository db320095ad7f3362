package backup

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"holdfast/internal/tree"
)

// A name that vanishes from a tree in which programs work while it is read was removed, which is
// no loss: the backup shows the tree without it. Or it was moved to a place where the walk had
// been already, and then the backup lacks it although it was there all the time. Only another look
// at the whole tree tells. In a tree that nobody changes a name that vanishes is a loss at once.

const (
	// maxVanished and vanishedBytes bound the names that wait for
	// that look. Further ones are losses.
	maxVanished   = 100_000
	vanishedBytes = 16 << 20
	// vanishedTold is how many removed names are told one by one.
	vanishedTold = 100
)

const whatVanished = "it vanished while the tree was read"

// vanished are the names that vanished from one volume. Its methods
// may be called from any goroutine.
type vanished struct {
	warn    func(tree.Warning)
	waits   bool // names wait for another look; else each is a loss
	waiting atomic.Int64

	mu    sync.Mutex
	bytes int
	paths map[uint64][]string // by inode number
}

// add takes a name that was gone when somebody came to it, with its
// inode number, 0 when that is not known.
func (v *vanished) add(path string, ino uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.waits || ino == 0 || v.waiting.Load() >= maxVanished || v.bytes+len(path) > vanishedBytes {
		v.warn(tree.Warning{Path: path, What: whatVanished, Lost: true})
		return
	}
	if v.paths == nil {
		v.paths = map[uint64][]string{}
	}
	v.paths[ino] = append(v.paths[ino], path)
	v.bytes += len(path)
	v.waiting.Add(1)
}

// stored takes an entry that the walk gives: names of the same file
// that vanished before are no loss, since this one is in the backup.
func (v *vanished) stored(e *tree.Entry) {
	if v.waiting.Load() == 0 || e.Nested {
		return
	}
	_ = v.take(e.Ino)
}

// take removes the names of an inode and returns them.
func (v *vanished) take(ino uint64) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	paths := v.paths[ino]
	delete(v.paths, ino)
	v.waiting.Add(-int64(len(paths)))
	return paths
}

// settle decides about the names that wait, when all of the volume
// was read. For that it looks at the whole tree once more.
func (v *vanished) settle(ctx context.Context, root *tree.Root, exclude func(path string, folder func() bool) bool) error {
	if v.waiting.Load() == 0 {
		return nil
	}
	again := tree.WalkOptions{NoXattrs: true, Exclude: exclude}
	again.Vanished = func(_ string, ino uint64) {
		for _, path := range v.take(ino) {
			v.warn(tree.Warning{Path: path, What: whatVanished + ", and is still being moved", Lost: true})
		}
	}
	err := root.Walk(ctx, again, func(e *tree.Entry) error {
		if e.Nested {
			return nil
		}
		for _, path := range v.take(e.Ino) {
			what := fmt.Sprintf("it was moved to %q while the tree was read, too late for the backup", e.Path)
			if e.Path == path {
				what = whatVanished + ", and is there again"
			}
			v.warn(tree.Warning{Path: path, What: what, Lost: true})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for what was moved: %w", err)
	}
	told, waiting := 0, v.waiting.Load()
	for _, paths := range v.paths {
		for _, path := range paths {
			if told++; told > vanishedTold {
				break
			}
			v.warn(tree.Warning{Path: path, What: "it was removed while the tree was read"})
		}
	}
	if waiting > vanishedTold {
		v.warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("%d more names were removed while the tree was read", waiting-vanishedTold)})
	}
	return nil
}
