package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/snapshot"
)

// Bounds of the space under a view that a backup reads, where it takes
// its space from a file system. (A thin pool has limits of its own.)
const (
	// viewFree is the share of a file system, in percent, below which
	// a view goes rather than fills it up for those who write there.
	viewFree = 3
	// viewLooks is how often that is looked at: the look is one call of the kernel.
	viewLooks = time.Second
)

// viewRoom ends a backup whose views take the last space of their file
// system. A file system that was full before the view was made is no reason.
type viewRoom struct {
	mu    sync.Mutex
	first map[string]int64 // bytes that were free at the first look, by the view's path
}

// check is checkView, and looks at the space.
func (v *viewRoom) check(ctx context.Context, s job.Source) error {
	if err := checkView(ctx, s); err != nil {
		return err
	}
	free, total, ok := snapshot.RoomAround(snapshot.Ref(s.Ref))
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.first == nil {
		v.first = map[string]int64{}
	}
	first, known := v.first[s.Ref.Path]
	if !known {
		v.first[s.Ref.Path] = free
		return nil
	}
	if limit := total / 100 * viewFree; free >= limit || first < limit {
		return nil
	}
	return fmt.Errorf("volume %q: snapshot %s: %w: %d of %d bytes are free on its file system, and %d were when the backup began; it goes before "+
		"those who write there find it full", s.Volume, s.Ref.Path, snapshot.ErrNoRoom, free, total, first)
}

// every is how often the views are looked at.
func (v *viewRoom) every(sources []job.Source) time.Duration {
	if slices.ContainsFunc(sources, func(s job.Source) bool { _, _, ok := snapshot.RoomAround(snapshot.Ref(s.Ref)); return !ok }) {
		return viewEvery
	}
	return viewLooks
}
