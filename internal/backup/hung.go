package backup

import (
	"context"
	"time"

	"holdfast/internal/contain"
)

// hungAfter is how long a Run may take to end after its context has ended. A
// Run that takes longer hangs in the kernel, on storage that does not answer.
const hungAfter = 30 * time.Second

// hungBuffers is the most packs that a hanging Run can
// hold: a pack that it fills, and a pack on its way.
const hungBuffers = 2

// watch gives the turn's place and memory to others when the Run hangs:
// storage that does not answer must not keep the backups of other storage from
// beginning. The caller calls end when the Run ends; end restores the Host.
func (t *turn) watch(ctx context.Context) (end func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = contain.Call(func() error {
			timer := time.NewTimer(hungAfter)
			defer timer.Stop()
			select {
			case <-over:
			case <-timer.C:
				t.lend()
			}
			return nil
		})
	})
	return func() {
		stop()
		close(over)
		t.end()
	}
}

// lend leaves the place of a Run that hangs, and makes room for the packs of another.
func (t *turn) lend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || t.lent {
		return
	}
	t.lent = true
	t.leaveLocked()
	t.h.buffers.Grow(hungBuffers)
}

// end leaves the place, and takes back the lent memory.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.leaveLocked()
	if t.lent {
		t.lent = false
		t.h.buffers.Grow(-hungBuffers)
	}
}
