package job

import (
	"context"
	"sync"
)

// slots lets a fixed number of jobs work at once, first come first served. A place in the line is
// taken at once by join, so the order is that of the calls, not that of goroutines waking up.
type slots struct {
	mu   sync.Mutex
	free int
	line []*ticket
}

// ticket is one place in the line. It is for one goroutine.
type ticket struct {
	s     *slots
	ready chan struct{} // closed when the slot is the ticket's
	gone  bool          // released, or left the line
}

func newSlots(n int) *slots { return &slots{free: max(1, n)} }

func (s *slots) join() *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &ticket{s: s, ready: make(chan struct{})}
	s.line = append(s.line, t)
	s.serve()
	return t
}

// take gives a slot at once, beyond the number if need be: to a job that has what the slot stands for already.
func (s *slots) take() *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free--
	t := &ticket{s: s, ready: make(chan struct{})}
	close(t.ready)
	return t
}

// serve gives free slots to the head of the line. The lock is held.
func (s *slots) serve() {
	for s.free > 0 && len(s.line) > 0 {
		s.free--
		close(s.line[0].ready)
		s.line = s.line[1:]
	}
}

// waiting counts the places in the line.
func (s *slots) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.line)
}

// idle counts the slots that nobody has.
func (s *slots) idle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.free)
}

// wait returns nil when the slot is there, or the context's cause.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the slot back, or leaves the line. It is idempotent, and nothing for a nil ticket.
func (t *ticket) leave() {
	if t == nil {
		return
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.gone {
		return
	}
	t.gone = true
	for i, other := range t.s.line {
		if other == t {
			t.s.line = append(t.s.line[:i:i], t.s.line[i+1:]...)
			return
		}
	}
	t.s.free++
	t.s.serve()
}
