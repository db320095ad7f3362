package snapshottest

import (
	"sync"
	"testing"
)

// TwoBeside lets two jobs, as of two commands, come and go. They share one snapshot
// folder, and look for leftovers of other jobs first. The folder vanishes under one job
// while the other looks into it, which is no fault.
func TwoBeside(t *testing.T, s Subject, rounds int) {
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			req := s.request("two-" + string(rune('a'+i)))
			req.Host = "host-" + string(rune('a'+i))
			for round := range s.rounds(rounds) {
				if refs, err := s.Provider.Leftovers(t.Context(), req); err != nil || len(refs) > 0 {
					t.Errorf("round %d: leftovers: %v, %v", round, refs, err)
					return
				}
				snap, err := s.Provider.Create(t.Context(), req)
				if err != nil {
					t.Errorf("round %d: create: %v", round, err)
					return
				}
				if ok, err := s.Provider.Stands(t.Context(), snap.Ref); err != nil || !ok {
					t.Errorf("round %d: stands: %v, %v", round, ok, err)
				}
				if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
					t.Errorf("round %d: remove: %v", round, err)
				}
			}
		})
	}
	wg.Wait()
}
