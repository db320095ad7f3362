package vault

import (
	"context"
	"sync"
)

// claimTurns lets one goroutine of this process at a time change the claim of this host on an
// instance. Without turns, the renewal of a claim and the next prepare of the instance would put
// two objects under one number, and a renewal could put a claim again that a release removed.
type claimTurns struct {
	mu   sync.Mutex
	held map[string]chan struct{} // by instance; closed at the end of the turn
}

func newClaimTurns() *claimTurns { return &claimTurns{held: map[string]chan struct{}{}} }

// take waits for the turn on an instance, or until ctx ends. end ends the turn.
func (t *claimTurns) take(ctx context.Context, instance string) (end func(), err error) {
	for {
		t.mu.Lock()
		before, busy := t.held[instance]
		if !busy {
			mine := make(chan struct{})
			t.held[instance] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.held, instance)
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
