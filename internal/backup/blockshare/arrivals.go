package blockshare

import (
	"context"
	"sync"

	"holdfast/internal/vault"
)

// Arrivals says which packs of a Run have arrived in the store, for the other Runs that use them,
// and which packs of other Runs this Run uses. Its methods may be called from any goroutine.
type Arrivals struct {
	precopy bool // of a round of pre-copy, which may be slowed down, or rest
	mu      sync.Mutex
	packs   map[vault.PackID]bool // confirmed
	ended   bool                  // nothing more arrives
	changed chan struct{}
	used    map[vault.PackID]*Arrivals // of others
}

// NewArrivals is for a Run that has sent nothing yet; precopy is as in Run. End is due.
func NewArrivals(precopy bool) *Arrivals {
	return &Arrivals{precopy: precopy, packs: map[vault.PackID]bool{}, changed: make(chan struct{}), used: map[vault.PackID]*Arrivals{}}
}

// Sent notes that the store has a pack.
func (a *Arrivals) Sent(id vault.PackID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.packs[id] = true
	close(a.changed)
	a.changed = make(chan struct{})
}

// End notes that packs which have not arrived never will.
func (a *Arrivals) End() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.ended = true
		close(a.changed)
	}
}

// failed tells whether a pack never arrived.
func (a *Arrivals) failed(id vault.PackID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended && !a.packs[id]
}

// rests tells whether a pack has not arrived, and may take as long
// as a round of pre-copy likes, since no held instance waits for it.
func (a *Arrivals) rests(id vault.PackID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.precopy && !a.packs[id]
}

// Pending tells whether a pack of another Run is used that has not arrived yet.
func (a *Arrivals) Pending(id vault.PackID) bool {
	a.mu.Lock()
	sender := a.used[id]
	a.mu.Unlock()
	if sender == nil {
		return false
	}
	sender.mu.Lock()
	defer sender.mu.Unlock()
	return !sender.packs[id]
}

// uses notes that the Run uses a chunk in a pack that another Run may send.
func (a *Arrivals) uses(e entry) {
	if e.sender == nil || e.sender == a {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used[e.loc.Pack] = e.sender
}

// Wait waits until the packs of others that are used have arrived, or never will, which
// the caller finds out by looking for them. The others wait for nobody before that.
func (a *Arrivals) Wait(ctx context.Context) error {
	for id, sender := range a.used { // nothing more is used from now on
		for {
			sender.mu.Lock()
			over, changed := sender.ended || sender.packs[id], sender.changed
			sender.mu.Unlock()
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
