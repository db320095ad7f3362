package janitor_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/janitor"
	"holdfast/internal/retention"
	"holdfast/internal/vault"
)

// lastRun is the record of the last prune.
func (w *world) lastRun() vault.RunRecord {
	w.Helper()
	runs, err := w.v.Runs(w.Context())
	w.must(err)
	if len(runs.Ended) == 0 {
		return vault.RunRecord{}
	}
	return runs.Ended[0]
}

// TestHere: the one janitor prunes once in each period.
func TestHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.host("a", func(o *janitor.Options) { o.Mode = janitor.ModeHere })
		h.lives()
		for range 60 {
			w.backup("i", time.Now())
			time.Sleep(day)
		}
		h.stopped()
		// The first prune at once, and then one in each period of 7 days.
		if n := len(h.events()); n < 8 || n > 9 {
			t.Errorf("%d prunes in 60 days", n)
		}
		there, _ := w.backups()
		if len(there) > 3+7+7+1 {
			t.Errorf("%d backups stay", len(there))
		}
		w.whole()
	})
}

// TestElected: of the hosts that use a vault one prunes it in each period, another one from period
// to period, and hosts that die or may not delete only delay it.
func TestElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hosts []*host
		for _, name := range []string{"a", "b", "c", "d"} {
			h := w.host(name, func(o *janitor.Options) { o.Mode, o.Every = janitor.ModeElected, 2*day })
			h.lives()
			hosts = append(hosts, h)
		}
		prunes := func() (n int) {
			for _, h := range hosts {
				n += len(h.events())
			}
			return n
		}
		by, before := map[string]bool{}, w.lastRun().ID
		for range 20 * 8 {
			time.Sleep(3 * time.Hour)
			if last := w.lastRun(); last.ID != before {
				before = last.ID
				by[last.Host] = true
			}
		}
		// At first the hosts may not have seen each other, and then each prunes once.
		if n := prunes(); n < 9 || n > 11+len(hosts)-1 || len(by) < 2 {
			t.Errorf("%d prunes in 10 periods, by %v", n, by)
		}
		// All but one host are gone, and that one takes their turns.
		for _, h := range hosts[1:] {
			h.stopped()
		}
		n := prunes()
		time.Sleep(9 * day)
		if more := prunes() - n; more < 3 || more > 5 {
			t.Errorf("%d prunes in 9 days by the last host", more)
		}
		hosts[0].stopped()
	})
}

// TestMayNotDelete: a host that may not delete condemns nothing, is a state that is told once, and
// tries again seldom. The state ends when the host may delete, or when another host has pruned.
func TestMayNotDelete(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"the right comes": func(w *world) { w.st.set(func(s *store) { s.deny = false }) },
		"another host prunes": func(w *world) {
			w.st.set(func(s *store) { s.deny = false })
			other := w.host("janitor", nil)
			other.start()
			other.run(janitor.Command{})
			other.stopped()
			w.st.set(func(s *store) { s.deny = true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.days("i", 10)
				w.st.set(func(s *store) { s.deny = true })
				h := w.host("a", func(o *janitor.Options) { o.Mode = janitor.ModeHere })
				h.start()
				defer h.stopped()
				time.Sleep(10 * day)
				if want := []string{"failed may_not_delete"}; !slices.Equal(h.events(), want) {
					t.Errorf("events: %q", h.events())
				}
				if runs := h.j.Runs(tenant); len(runs) < 2 || len(runs) > 12 {
					t.Errorf("%d runs in 10 days", len(runs))
				}
				if all := h.j.Troubles(); len(all) != 1 || all[0].Problem != janitor.ProblemDelete {
					t.Errorf("troubles: %+v", all)
				}
				if _, forgotten := w.backups(); w.left("condemned")+w.left("runs")+w.left("going") != 0 || len(forgotten) != 0 {
					t.Errorf("%d condemnations, forgotten are %q", w.left("condemned"), forgotten)
				}
				end(w)
				h.until("the state ends", func() bool { return len(h.j.Troubles()) == 0 })
				w.whole()
			})
		})
	}
}

// TestRetries: a scheduled run that fails is tried again,
// ever more seldom, and a commanded run that failed is not.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		writer, err := w.v.BeginSession(t.Context(), vault.SessionOptions{Host: "h7"})
		w.must(err)
		w.backup("i", time.Now())
		// Garbage, for which the prune has to wait.
		w.must(w.st.Put(t.Context(), w.packKey(vault.PackID{1}), make([]byte, 10)))
		h := w.host("a", func(o *janitor.Options) { o.Mode = janitor.ModeHere })
		h.start()
		defer h.stopped()
		time.Sleep(4 * day)
		if n := len(h.events()); n < 4 || n > 9 {
			t.Errorf("%d tries in 4 days: %q", n, h.events())
		}
		w.must(writer.End(t.Context()))
		h.until("the prune succeeds", func() bool { return slices.Contains(h.events(), "completed ") })
		if w.left("packs") != 1 || len(h.j.Troubles()) != 0 {
			t.Errorf("%d packs, %+v", w.left("packs"), h.j.Troubles())
		}
	})
}

// TestTwoAtOnce: hosts that prune and forget by different rules at the same moment
// lose nothing that any rule of the stricter ones keeps, and leave no garbage.
func TestTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hosts []*host
		for n, name := range []string{"a", "b", "c"} {
			h := w.host(name, func(o *janitor.Options) {
				o.Grace = time.Second
				o.Policy = func(string, string) retention.Policy { return retention.Policy{Daily: 3 + n} }
			})
			h.start()
			hosts = append(hosts, h)
		}
		for i := range 12 {
			w.backup("i", time.Now())
			w.backup("j", time.Now())
			var ids []string
			for _, h := range hosts {
				ids = append(ids, h.command(janitor.Command{}))
			}
			for n, h := range hosts {
				if r := h.end(ids[n]); r.State != janitor.Done {
					t.Errorf("round %d, host %s: %+v", i, h.name, r)
				}
			}
			w.whole()
			time.Sleep(day)
		}
		for _, h := range hosts {
			h.run(janitor.Command{})
			h.stopped()
		}
		there, _ := w.backups()
		if len(there) != 6 || w.left("packs") != 6 || w.left("condemned")+w.left("going")+w.left("sessions") != 0 {
			t.Errorf("%d backups, %d packs, %d condemnations", len(there), w.left("packs"), w.left("condemned"))
		}
	})
}
