package backup

import (
	"context"
	"sync"

	"holdfast/internal/vault"
)

// sending is which packs of a Run have arrived, for the others that use them.
type sending struct {
	precopy bool // of a round of pre-copy, which may be slowed down, or rest
	mu      sync.Mutex
	packs   map[vault.PackID]bool // confirmed
	ended   bool                  // nothing more arrives
	changed chan struct{}
	used    map[vault.PackID]*sending // of others
}

func newSending(precopy bool) *sending {
	return &sending{precopy: precopy, packs: map[vault.PackID]bool{}, changed: make(chan struct{}), used: map[vault.PackID]*sending{}}
}

// sent notes that the store has a pack.
func (s *sending) sent(id vault.PackID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[id] = true
	close(s.changed)
	s.changed = make(chan struct{})
}

// end notes that packs which have not arrived never will.
func (s *sending) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.changed)
	}
}

// failed tells whether a pack never arrived.
func (s *sending) failed(id vault.PackID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && !s.packs[id]
}

// rests tells whether a pack has not arrived, and may take as long
// as a round of pre-copy likes, since no held instance waits for it.
func (s *sending) rests(id vault.PackID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.precopy && !s.packs[id]
}

// pending tells whether a pack of another Run is used that has not arrived yet.
func (s *sending) pending(id vault.PackID) bool {
	s.mu.Lock()
	by := s.used[id]
	s.mu.Unlock()
	if by == nil {
		return false
	}
	by.mu.Lock()
	defer by.mu.Unlock()
	return !by.packs[id]
}

func (s *sending) uses(e entry) {
	if e.by == nil || e.by == s {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[e.loc.Pack] = e.by
}

// wait waits until the packs of others that are used have arrived, or never will, which
// the caller finds out by looking for them. The others wait for nobody before that.
func (s *sending) wait(ctx context.Context) error {
	for id, by := range s.used { // nobody uses more any more
		for {
			by.mu.Lock()
			over, changed := by.ended || by.packs[id], by.changed
			by.mu.Unlock()
			if over {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}
