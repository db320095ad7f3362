package backup

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/contain"
)

// slot is a Run's right to workers and memory, until it finishes, and its place among the
// Runs, until it leaves. It is for one goroutine at a time, beside the goroutine of watch.
type slot struct {
	pool *Pool

	mu     sync.Mutex
	tokens chan struct{} // where it has a place; nil: nowhere
	hung   bool          // the Run hangs, and others have its place
	ended  bool
}

// admit waits until fewer Runs have content to store than the memory was divided for, or
// ctx ends. With more Runs each could hold a pack that it is filling, and no pack would
// be left for the Run on which they wait. A Run that is made again has an extra place.
func (p *Pool) admit(ctx context.Context, first bool) (*slot, error) {
	again := p.again
	if first {
		again = nil
	}
	select {
	case p.runs <- struct{}{}:
		return &slot{pool: p, tokens: p.runs}, nil
	case again <- struct{}{}:
		return &slot{pool: p, tokens: again}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// finish is called by a Run that has no more content to store: another Run may begin. The
// number of finishing Runs is bounded too, since an index is in memory until it is stored.
func (s *slot) finish(ctx context.Context) error {
	select {
	case s.pool.finishing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked()
	s.tokens = s.pool.finishing
	return nil
}

// leave gives up the place. It is idempotent.
func (s *slot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked()
}

func (s *slot) leaveLocked() {
	if s.tokens != nil {
		<-s.tokens
		s.tokens = nil
	}
}

// hungAfter is how long a Run may take to end after its context has ended. A
// Run that takes longer hangs in the kernel, on storage that does not answer.
const hungAfter = 30 * time.Second

// hungBuffers is the most packs that a hanging Run can
// hold: a pack that it fills, and a pack on its way.
const hungBuffers = 2

// watch gives the turn's place and memory to others when the Run hangs:
// storage that does not answer must not keep the backups of other storage from
// beginning. The caller calls end when the Run ends; end restores the Pool.
func (s *slot) watch(ctx context.Context) (end func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = contain.Call(func() error {
			timer := time.NewTimer(hungAfter)
			defer timer.Stop()
			select {
			case <-over:
			case <-timer.C:
				s.lendWhileHung()
			}
			return nil
		})
	})
	return func() {
		stop()
		close(over)
		s.end()
	}
}

// lendWhileHung leaves the place of a Run that hangs, and makes room for the packs of another.
func (s *slot) lendWhileHung() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.hung {
		return
	}
	s.hung = true
	s.leaveLocked()
	s.pool.buffers.Grow(hungBuffers)
}

// end leaves the place, and takes back the lent memory.
func (s *slot) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.leaveLocked()
	if s.hung {
		s.hung = false
		s.pool.buffers.Grow(-hungBuffers)
	}
}
