package vault

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
)

// damage puts an object that does not open in the place of a session.
func (p *scene) damage(suffix string) (id string) {
	p.Helper()
	id = strings.Repeat("0", 16) + "-" + strings.Repeat("1", 32) + suffix
	p.must(p.v.st.Put(p.Context(), p.v.sessionsPrefix()+id, []byte("junk")))
	return id
}

// TestDamagedSession: a prune waits for a damaged session as for a backup and names it, and
// removes it when it stands for a day by the clock of the store. An operator removes it at once.
func TestDamagedSession(t *testing.T) {
	for name, end := range map[string]func(p *scene, id string){
		"by the operator": func(p *scene, id string) { p.must(p.v.ForgetSession(p.Context(), id)) },
		"by a day":        func(*scene, string) { time.Sleep(damagedStands) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newScene(t)
				all := p.backups(2)
				p.forget(all[0])
				id := p.damage("")
				var warned error
				o := pruneNow()
				o.Wait, o.Poll, o.Warn = time.Minute, time.Second, func(err error) { warned = errors.Join(warned, err) }
				var waits *WaitsError
				if _, err := p.v.Prune(t.Context(), o); !errors.As(err, &waits) || !strings.Contains(err.Error(), "--forget "+id) {
					t.Errorf("prune: %v", err)
				}
				if !errors.Is(warned, ErrCorrupt) && !strings.Contains(warned.Error(), id) || !p.there(all[0]) {
					t.Errorf("warned of %v; the backup is there: %v", warned, p.there(all[0]))
				}
				sessions, err := p.v.Sessions(t.Context())
				if err != nil || len(sessions) != 1 || sessions[0].Kind != "damaged" || sessions[0].Damaged == "" {
					t.Errorf("sessions: %+v, %v", sessions, err)
				}
				kept, err := p.v.Keeps(t.Context(), nil, time.Now())
				if err != nil || len(kept.Why(referTo(all[0]))) == 0 {
					t.Errorf("a damaged session may be a reader's: %v", err)
				}
				end(p, id)
				if r, err := p.v.Prune(t.Context(), o); err != nil || r.Forgotten != 1 || p.there(all[0]) {
					t.Errorf("prune: %+v, %v", r, err)
				}
				if left := p.left("sessions"); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			})
		})
	}
}

// TestDamagedSessionOfACollectorStays: the collector may only be paused before its deletes, so no
// prune removes its session, however old; the operator does.
func TestDamagedSessionOfACollectorStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newScene(t)
		id := p.damage(pruneSuffix)
		time.Sleep(2 * damagedStands)
		var warned error
		o := pruneNow()
		o.Warn = func(err error) { warned = errors.Join(warned, err) }
		if _, err := p.v.Prune(t.Context(), o); err != nil || len(p.left("sessions")) != 1 {
			t.Errorf("prune: %v; left: %q", err, p.left("sessions"))
		}
		if warned == nil || !strings.Contains(warned.Error(), "--forget "+id) {
			t.Errorf("the prune warned of %v", warned)
		}
		p.must(p.v.ForgetSession(t.Context(), id))
	})
}

// TestDamagedSessionOfACollector: nobody waits for a collector, and a backup does not read the
// sessions of others.
func TestDamagedSessionOfACollector(t *testing.T) {
	p := newScene(t)
	p.damage(pruneSuffix)
	p.pack()
	if r := p.prune(); r.Deleted != 1 {
		t.Errorf("prune: %+v", r)
	}
	p.must(p.begin(p.v).End(t.Context()))
	if err := p.v.ForgetSession(t.Context(), strings.Repeat("a", 16)+"-"+strings.Repeat("b", 32)); !errors.Is(err, ErrSessionGone) {
		t.Errorf("a session that is not there: %v", err)
	}
}

// TestSettleMarksASession: with credentials that delete nothing, Settle ends a session whose end
// failed first, by a mark.
func TestSettleMarksASession(t *testing.T) {
	p := newScene(t)
	s := p.begin(p.paused)
	p.st.before = func(op, key string) error {
		switch {
		case op == "delete":
			return obs.ErrAccess
		case op == "put" && strings.HasSuffix(key, endedSuffix):
			return obs.ErrUnavailable
		}
		return nil
	}
	if err := s.End(t.Context()); err == nil {
		t.Error("the session ended without its mark")
	}
	p.st.before = func(op, _ string) error {
		if op == "delete" {
			return obs.ErrAccess
		}
		return nil
	}
	if _, err := p.paused.Settle(t.Context()); err != nil {
		t.Errorf("settle: %v", err)
	}
	if stand, _, err := p.v.listSessions(t.Context(), ""); err != nil || len(stand) > 0 {
		t.Errorf("after Settle stand %v, %v", stand, err)
	}
	if len(p.paused.ledger.left) > 0 {
		t.Errorf("Settle goes on with %q", p.paused.ledger.left)
	}
}

// TestSessionThatMayNotBeDeleted: with credentials that delete nothing, an ended session is marked;
// no later session of the host reads it, no prune waits for it, and a prune that may delete takes
// session and mark away.
func TestSessionThatMayNotBeDeleted(t *testing.T) {
	p := newScene(t)
	reads := 0
	p.st.before = func(op, key string) error {
		if op == "delete" {
			return obs.ErrAccess
		}
		return nil
	}
	counted := &countedReads{hooked: p.st, reads: &reads}
	appends := *p.paused
	appends.st = counted
	for range 3 {
		m := p.manifest(p.pack())
		s, err := appends.BeginSession(t.Context(), SessionOptions{Host: "h", Warn: func(err error) { t.Error(err) }})
		p.must(err)
		p.must(s.WriteManifest(t.Context(), m))
		reads = 0
		p.must(s.End(t.Context()))
	}
	s, err := appends.BeginSession(t.Context(), SessionOptions{Host: "h"})
	p.must(err)
	if reads != 0 || len(p.left("sessions")) != 7 {
		t.Errorf("%d sessions were read; there are %q", reads, p.left("sessions"))
	}
	p.must(s.End(t.Context()))
	if settled, err := appends.Settle(t.Context()); err != nil || len(settled) > 0 {
		t.Errorf("settle: %v, %v", settled, err)
	}
	p.pack()
	if r := p.prune(); r.Deleted != 1 || len(p.left("sessions")) > 0 {
		t.Errorf("prune: %+v, left: %q", r, p.left("sessions"))
	}
}

// countedRequests counts all requests, and the objects of its lists.
type countedRequests struct {
	*hooked
	mu     sync.Mutex
	all    int
	listed int
}

func (c *countedRequests) count(n, listed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.listed = c.all+n, c.listed+listed
}

func (c *countedRequests) Put(ctx context.Context, key string, body []byte) error {
	c.count(1, 0)
	return c.hooked.Put(ctx, key, body)
}

func (c *countedRequests) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	c.count(1, 0)
	return c.hooked.ReadAt(ctx, key, b, off)
}

func (c *countedRequests) Stat(ctx context.Context, key string) (obs.Info, error) {
	c.count(1, 0)
	return c.hooked.Stat(ctx, key)
}

func (c *countedRequests) Delete(ctx context.Context, keys ...string) error {
	c.count(1, 0)
	return c.hooked.Delete(ctx, keys...)
}

func (c *countedRequests) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	c.count(1, 0)
	return func(yield func(obs.Info, error) bool) {
		for info, err := range c.hooked.List(ctx, prefix) {
			c.count(0, 1)
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestLeftSessionsCostNothing: with credentials that only append, a backup takes the same requests,
// and lists the same objects, after one session that could not be deleted and after hundreds.
func TestLeftSessionsCostNothing(t *testing.T) {
	p := newScene(t)
	p.st.before = func(op, _ string) error {
		if op == "delete" {
			return obs.ErrAccess
		}
		return nil
	}
	counted := &countedRequests{hooked: p.st}
	appends := *p.paused
	appends.st = counted
	o := SessionOptions{Host: "h", Warn: func(err error) { t.Error(err) }}
	backup := func() (requests, listed int) {
		counted.all, counted.listed = 0, 0
		s, err := appends.BeginSession(t.Context(), o)
		p.must(err)
		n, err := appends.Name(t.Context(), o)
		p.must(err)
		p.must(n.End(t.Context()))
		p.must(s.End(t.Context()))
		r, err := appends.BeginReading(t.Context(), o, "")
		p.must(err)
		p.must(r.End(t.Context()))
		return counted.all, counted.listed
	}
	backup() // which leaves sessions
	backup() // which finds them
	requests, listed := backup()
	for range 200 {
		backup()
	}
	if again, more := backup(); again != requests || more != listed {
		t.Errorf("a backup takes %d requests and lists %d objects, and after 200 more backups %d and %d", requests, listed, again, more)
	}
	if n := len(p.left("sessions")); n < 1200 {
		t.Errorf("only %d objects of sessions stay", n)
	}
	// A new process looks at them once, and reads none of them.
	fresh := *p.paused
	fresh.st, fresh.ledger = counted, newLedger()
	counted.all, counted.listed = 0, 0
	s, err := fresh.BeginSession(t.Context(), o)
	p.must(err)
	if counted.all > 3 {
		t.Errorf("the first session of a process takes %d requests", counted.all)
	}
	p.must(s.End(t.Context()))
}

// TestClaimsThatCannotBeRemoved: with credentials that only append a host keeps its claim by the
// newest object, and no pass over the claims fails for the older ones.
func TestClaimsThatCannotBeRemoved(t *testing.T) {
	p := newScene(t)
	_, err := p.paused.Claim(t.Context(), ClaimOptions{Instance: "i", Host: "a", Identity: "a", Job: "j"})
	p.must(err)
	p.st.before = func(op, _ string) error {
		if op == "delete" {
			return obs.ErrAccess
		}
		return nil
	}
	for _, keep := range []bool{true, true, false} {
		kept, lost, err := p.paused.KeepClaims(t.Context(), KeepOptions{Host: "a", Identity: "a", Keeps: func(Claim) bool { return keep }})
		if err != nil || len(lost) != 0 || len(kept) == 1 != keep {
			t.Errorf("%d kept, %d lost, %v", len(kept), len(lost), err)
		}
		if all, err := p.v.Claims(t.Context(), "i"); err != nil || len(all) != 1 || all[0].Host != "a" {
			t.Errorf("claims: %+v, %v", all, err)
		}
	}
}
