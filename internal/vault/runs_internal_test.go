package vault

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/hostid"
	"holdfast/internal/obs"
)

func runOf(host string) SessionOptions {
	return SessionOptions{Host: host, Identity: hostid.Identity{ID: "identity of " + host}}
}

// TestRecordsOfPrunes: a record of a begin says for a day that a prune is
// under way; a finished run leaves its counts, and few records stay.
func TestRecordsOfPrunes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newScene(t)
		died, err := p.v.BeginRun(t.Context(), runOf("a"))
		p.must(err)
		runs, err := p.v.Runs(t.Context())
		if err != nil || len(runs.Ended) != 0 || runs.UnderWay == nil || runs.UnderWay.ID != died.record.ID || runs.UnderWay.Host != "a" {
			t.Errorf("a run under way: %+v, %v", runs, err)
		}
		var last *Run
		for i := range runsKept + 3 {
			time.Sleep(25 * time.Hour)
			last, err = p.v.BeginRun(t.Context(), runOf("b"))
			p.must(err)
			p.must(last.End(t.Context(), PruneReport{Forgotten: i, Deleted: 2, DeletedBytes: 3, GarbageBytes: 4}))
		}
		runs, err = p.v.Runs(t.Context())
		if err != nil || runs.UnderWay != nil || len(runs.Ended) != runsRead {
			t.Fatalf("runs: %+v, %v", runs, err)
		}
		r := runs.Ended[0]
		if r.ID != last.record.ID || r.Host != "b" || r.Forgotten != runsKept+2 || r.Deleted != 2 || r.Freed != 3 || r.Garbage != 4 || r.Ended.IsZero() || r.Stored.IsZero() {
			t.Errorf("the last record: %+v", r)
		}
		if n := len(p.left("runs")); n != runsKept {
			t.Errorf("%d records stay", n)
		}
		dropped, err := p.v.BeginRun(t.Context(), runOf("a"))
		p.must(err)
		p.must(dropped.Drop(t.Context()))
		p.must(p.v.st.Put(t.Context(), p.v.runsPrefix()+dropped.record.ID, []byte("junk")))
		if runs, err = p.v.Runs(t.Context()); err != nil || runs.UnderWay != nil || runs.Ended[0].ID != last.record.ID {
			t.Errorf("beside a record that does not open: %+v, %v", runs, err)
		}
	})
}

// TestTurnsOfHosts: of the hosts that were seen lately each has another rank,
// the turn goes around from run to run, and a host that is gone has none.
func TestTurnsOfHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newScene(t)
		hosts := []string{"a", "b", "c", "d"}
		look := func(host string) {
			o := runOf(host)
			p.must(p.v.PutLook(t.Context(), Look{Name: p.v.LookName(o.Identity.ID), Host: host}))
		}
		look("gone")
		first := map[string]bool{}
		for range 40 {
			time.Sleep(2 * time.Hour)
			for _, h := range hosts {
				look(h)
			}
			var ranks []int
			for _, h := range hosts {
				turn, err := p.v.Turn(t.Context(), runOf(h).Identity.ID, time.Hour)
				p.must(err)
				if turn.Hosts != len(hosts) || turn.Now.IsZero() {
					t.Fatalf("%s: %+v", h, turn)
				}
				if ranks = append(ranks, turn.Rank); turn.Rank == 0 {
					first[h] = true
				}
			}
			if slices.Sort(ranks); !slices.Equal(ranks, []int{0, 1, 2, 3}) {
				t.Fatalf("ranks %v", ranks)
			}
			r, err := p.v.BeginRun(t.Context(), runOf("a"))
			p.must(err)
			p.must(r.End(t.Context(), PruneReport{}))
		}
		if len(first) != len(hosts) {
			t.Errorf("only %v ever came first", first)
		}
		if turn, err := p.v.Turn(t.Context(), runOf("gone").Identity.ID, time.Hour); err != nil || turn.Rank != 4 || turn.Hosts != 5 {
			t.Errorf("a host that gave no sign of life: %+v, %v", turn, err)
		}
	})
}

// TestMayDelete: credentials that only append are told by the store's refusal, and no other fault
// counts as one.
func TestMayDelete(t *testing.T) {
	p := newScene(t)
	for fault, want := range map[error]error{nil: nil, obs.ErrAccess: ErrMayNotDelete, obs.ErrUnavailable: obs.ErrUnavailable} {
		p.st.before = func(op, _ string) error {
			if op == "delete" {
				return fault
			}
			return nil
		}
		if err := p.paused.MayDelete(t.Context()); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("a store that answers %v: %v", fault, err)
		}
	}
}
