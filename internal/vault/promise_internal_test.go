package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// hooked lets a test act before a request: the acts of others
// while a process is paused, or a fault, which is the error.
type hooked struct {
	obs.Store
	mu     sync.Mutex
	before func(op, key string) error
}

func (h *hooked) ask(op, key string) error {
	h.mu.Lock()
	f := h.before
	h.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op, key)
}

func (h *hooked) Put(ctx context.Context, key string, body []byte) error {
	if err := h.ask("put", key); err != nil {
		return err
	}
	return h.Store.Put(ctx, key, body)
}

func (h *hooked) Stat(ctx context.Context, key string) (obs.Info, error) {
	if err := h.ask("stat", key); err != nil {
		return obs.Info{}, err
	}
	return h.Store.Stat(ctx, key)
}

func (h *hooked) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	if err := h.ask("list", prefix); err != nil {
		return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, err) }
	}
	return h.Store.List(ctx, prefix)
}

func (h *hooked) Delete(ctx context.Context, keys ...string) error {
	if len(keys) > 0 {
		if err := h.ask("delete", keys[0]); err != nil {
			return err
		}
	}
	return h.Store.Delete(ctx, keys...)
}

func (h *hooked) Extend(ctx context.Context, key string, until time.Time) error {
	if err := h.ask("extend", key); err != nil {
		return err
	}
	return h.Store.Extend(ctx, key, until)
}

// once calls f before the first request of that kind on an object of that folder.
func (h *hooked) once(op, folder string, f func() error) {
	done := false
	h.before = func(o, key string) error {
		if done || o != op || !strings.Contains(key, "/"+folder+"/") {
			return nil
		}
		done = true
		return f()
	}
}

// scene is a vault with one backup, seen by a process that a test pauses, and by all others.
type scene struct {
	*testing.T
	st     *hooked
	paused *Vault // its requests go through st
	v      *Vault // of the others
	n      int    // of packs
	seq    uint64
}

func newScene(t *testing.T) *scene {
	t.Helper()
	v := fuzzVault(t)
	other := *v
	p := &scene{T: t, st: &hooked{Store: v.st}, v: v}
	other.st, other.ledger = p.st, newLedger()
	p.paused = &other
	return p
}

func (p *scene) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// pack stores a pack.
func (p *scene) pack() PackRef {
	p.Helper()
	p.n++
	ref := PackRef{ID: PackID{byte(p.n)}, Size: 200}
	p.must(p.v.st.Put(p.Context(), p.v.packKey(ref.ID), make([]byte, ref.Size)))
	return ref
}

// manifest is one of the next backup, not stored.
func (p *scene) manifest(packs ...PackRef) *Manifest {
	p.seq++
	return &Manifest{Instance: "i", Seq: p.seq, ID: modelID(int(p.seq)), Parent: modelParent(int(p.seq)), Packs: packs}
}

func referTo(m *Manifest) BackupRef {
	ref, _ := RefOf(m.Instance, m.ID)
	return ref
}

func (p *scene) there(m *Manifest) bool {
	p.Helper()
	_, err := p.v.Manifest(p.Context(), referTo(m))
	if err != nil && !errors.Is(err, ErrNoBackup) {
		p.Fatal(err)
	}
	return err == nil
}

func (p *scene) has(pack PackRef) bool {
	_, err := p.v.st.Stat(p.Context(), p.v.packKey(pack.ID))
	return err == nil
}

func (p *scene) begin(v *Vault) *Session {
	p.Helper()
	s, err := v.BeginSession(p.Context(), SessionOptions{Host: "h"})
	p.must(err)
	return s
}

// operator removes the session of a process that is alive.
func (p *scene) operator(s *Session) { p.must(p.v.st.Delete(p.Context(), p.v.sessionsPrefix()+s.id)) }

func pruneNow() PruneOptions { return PruneOptions{Host: "h", Wait: 1, Poll: 1} }

func (p *scene) prune() PruneReport {
	p.Helper()
	r, err := p.v.Prune(p.Context(), pruneNow())
	p.must(err)
	return r
}

// steps lets a prune of another process go on to the step of that name.
func (p *scene) steps(c *prune, until string) {
	p.Helper()
	for pruneSteps[c.at].what != until {
		again, err := c.next(p.Context())
		p.must(err)
		if again {
			p.Fatalf("the prune waits, and %q was to come", until)
		}
	}
}

func (p *scene) newPrune() *prune {
	return newPrune(p.v, PruneOptions{Host: "h", Now: time.Now, Warn: func(err error) { p.Error(err) }, Poll: time.Millisecond, Wait: time.Second})
}

// left are the objects of some folders.
func (p *scene) left(folders ...string) (keys []string) {
	for info, err := range p.v.st.List(p.Context(), p.v.info.ID+"/") {
		p.must(err)
		folder, _, _ := strings.Cut(strings.TrimPrefix(info.Key, p.v.info.ID+"/"), "/")
		if slices.Contains(folders, folder) {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

// TestPausedWriter: a writer sleeps between its look for its session and its manifest. An operator
// takes it for dead, and a collector deletes its packs. It does not report a backup.
func TestPausedWriter(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.paused), p.pack()
	m := p.manifest(pack)
	p.st.once("put", "backups", func() error {
		p.operator(s)
		p.prune()
		return nil
	})
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrSessionGone) || errors.Is(err, ErrMayExist) {
		t.Errorf("the writer says %v", err)
	}
	if p.there(m) || p.has(pack) {
		t.Error("the manifest or the pack is still there")
	}
	p.must(s.End(t.Context()))
	if left := p.left("sessions", "condemned"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestPausedWriterInTime: its session is removed, and no collector came. The longer look finds all
// packs, so the backup is made.
func TestPausedWriterInTime(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.paused), p.pack()
	m := p.manifest(pack)
	p.st.once("put", "backups", func() error { p.operator(s); return nil })
	p.must(s.WriteManifest(t.Context(), m))
	p.must(s.End(t.Context()))
	p.prune()
	if !p.there(m) || !p.has(pack) || len(p.left("sessions")) > 0 {
		t.Error("the backup is not whole, or a session is left")
	}
	// The session is gone all the same, for all that come later.
	if err := s.WriteManifest(t.Context(), p.manifest(pack)); !errors.Is(err, ErrSessionGone) {
		t.Errorf("another manifest under it: %v", err)
	}
}

// TestLongerLookSeesCondemnation: the packs are there still, but a collector that has read the
// manifests for the last time is about to delete one.
func TestLongerLookSeesCondemnation(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.paused), p.pack()
	m, c := p.manifest(pack), p.newPrune()
	p.st.once("put", "backups", func() error {
		p.operator(s)
		p.steps(c, "deletes packs")
		return nil
	})
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrSessionGone) {
		t.Errorf("the writer says %v", err)
	}
	if p.there(m) {
		t.Error("the manifest is still there")
	}
	p.must(c.run(t.Context()))
}

// TestMarkedWriter: while a writer sleeps before its manifest, somebody marks its living session as
// ended, so a collector that waits for the session goes on and deletes a pack of the writer. The
// writer does not report a backup, also where a collector removes session and mark between its
// looks for them.
func TestMarkedWriter(t *testing.T) {
	for name, swept := range map[string]bool{"the session stays": false, "session and mark go between the looks": true} {
		t.Run(name, func(t *testing.T) {
			p := newScene(t)
			s, pack, c := p.begin(p.paused), p.pack(), p.newPrune()
			m := p.manifest(pack)
			p.steps(c, "waits for backups")
			put, looks := false, 0
			p.st.before = func(op, key string) error {
				switch {
				case op == "put" && strings.Contains(key, "/backups/") && !put:
					put = true
					p.must(p.v.st.Put(t.Context(), p.v.sessionsPrefix()+s.id+endedSuffix, []byte(endedMark)))
					p.must(c.run(t.Context()))
				case op == "stat" && put && strings.Contains(key, s.id):
					if looks++; looks == 2 && swept {
						p.must(p.v.sweepSessions(t.Context()))
					}
				}
				return nil
			}
			if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrSessionGone) || p.there(m) {
				t.Errorf("the writer says %v, the manifest is there: %v", err, p.there(m))
			}
			if p.has(pack) {
				t.Error("the collector did not delete the pack")
			}
			p.must(s.End(t.Context()))
			if p.prune(); len(p.left("sessions", "condemned")) > 0 {
				t.Errorf("left: %q", p.left("sessions", "condemned"))
			}
		})
	}
}

// TestLongerLookLosesItsSession: the operator removes the new session too.
func TestLongerLookLosesItsSession(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.paused), p.pack()
	m := p.manifest(pack)
	put := false
	p.st.before = func(op, key string) error {
		put = put || op == "put" && strings.Contains(key, "/backups/")
		if put && op == "stat" && strings.Contains(key, "/sessions/") {
			return p.v.st.Delete(t.Context(), key)
		}
		return nil
	}
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrSessionGone) || p.there(m) {
		t.Errorf("the writer says %v, the manifest is there: %v", err, p.there(m))
	}
}

// TestPromiseInDoubt: the store does not answer when the writer looks again. The backup is not
// made yet, its session stays, and Settle finds out.
func TestPromiseInDoubt(t *testing.T) {
	for name, lost := range map[string]bool{"the session is there": false, "the packs are gone": true} {
		p := newScene(t)
		s, pack := p.begin(p.paused), p.pack()
		m := p.manifest(pack)
		put := false
		p.st.before = func(op, key string) error {
			put = put || op == "put" && strings.Contains(key, "/backups/")
			if put && strings.Contains(key, "/sessions/") {
				return obs.ErrUnavailable
			}
			return nil
		}
		if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrMayExist) || errors.Is(err, ErrSessionGone) {
			t.Errorf("%s: the writer says %v", name, err)
		}
		p.st.before = nil
		p.must(s.End(t.Context()))
		if n := len(p.left("sessions")); n != 1 {
			t.Errorf("%s: %d sessions while it is in doubt", name, n)
		}
		if lost { // an operator, and then damage: a collector would find the manifest
			p.operator(s)
			p.must(p.v.st.Delete(t.Context(), p.v.packKey(pack.ID)))
		}
		done, err := p.paused.Settle(t.Context())
		if err != nil || len(done) != 1 || done[0].Exists == lost || p.there(m) == lost {
			t.Errorf("%s: settled %v, %v; the manifest is there: %v", name, done, err, p.there(m))
		}
		if n := len(p.left("sessions")); n != 0 {
			t.Errorf("%s: %d sessions are left", name, n)
		}
	}
}

// TestManifestThatCantBeTakenAway: it stays in doubt until the delete succeeds.
func TestManifestThatCantBeTakenAway(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.paused), p.pack()
	m := p.manifest(pack)
	p.st.before = func(op, key string) error {
		switch {
		case op == "put" && strings.Contains(key, "/backups/"):
			p.operator(s)
			p.prune()
		case op == "delete" && strings.Contains(key, "/backups/"):
			return obs.ErrAccess
		}
		return nil
	}
	if err := s.WriteManifest(t.Context(), m); !errors.Is(err, ErrMayExist) || errors.Is(err, ErrSessionGone) {
		t.Errorf("the writer says %v", err)
	}
	if done, err := p.paused.Settle(t.Context()); len(done) > 0 || !errors.Is(err, ErrMayExist) {
		t.Errorf("settled %v, %v", done, err)
	}
	p.st.before = nil
	done, err := p.paused.Settle(t.Context())
	if err != nil || len(done) != 1 || done[0].Exists || !errors.Is(done[0].Err, ErrSessionGone) || p.there(m) {
		t.Errorf("settled %v, %v; the manifest is there: %v", done, err, p.there(m))
	}
}

// TestPausedCollector: a collector sleeps before it reads the manifests again, its session is
// removed, and a second one runs. The second does not end the condemnation of a pack that a
// manifest names by now, so nobody uses the pack whom the first, when it wakes up, does not see.
func TestPausedCollector(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.v), p.pack()
	first := p.newPrune()
	first.at, first.s = stepNamed("condemns packs"), p.begin(p.v)
	var err error
	first.packs, err = p.v.listPackSet(t.Context())
	p.must(err)
	p.steps(first, "lists the sessions")
	m := p.manifest(pack) // of a writer that began before the condemnation
	p.must(s.WriteManifest(t.Context(), m))
	p.must(s.End(t.Context()))
	p.must(first.s.End(t.Context()))
	p.steps(first, "reads new manifests")
	p.prune()
	if !p.has(pack) {
		t.Fatal("a pack that a manifest names is gone")
	}
	later := p.begin(p.v)
	if !slices.Contains(later.Condemned(), pack.ID) {
		t.Error("the second collector ended the condemnation of a pack that is there")
	}
	p.must(later.End(t.Context()))
	p.must(p.v.st.Delete(t.Context(), p.v.manifestKey(m.Instance, m.ID)))
	p.must(first.run(t.Context()))
	if left := p.left("packs", "condemned", "sessions"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestReaderBesideCollector: while somebody reads a backup, its packs stay, also when its manifest
// is deleted.
func TestReaderBesideCollector(t *testing.T) {
	p := newScene(t)
	s, pack := p.begin(p.v), p.pack()
	m := p.manifest(pack)
	p.must(s.WriteManifest(t.Context(), m))
	p.must(s.End(t.Context()))
	for _, reads := range []string{fullName(referTo(m)), "i/", ""} {
		reader, err := p.v.BeginReading(t.Context(), SessionOptions{Host: "reader"}, reads)
		p.must(err)
		if reads == "" {
			p.must(p.v.st.Delete(t.Context(), p.v.manifestKey(m.Instance, m.ID)))
			_, err = p.v.Prune(t.Context(), pruneNow())
			var waits *WaitsError
			if !errors.As(err, &waits) || len(waits.For) != 1 || waits.For[0].Host != "reader" || !strings.Contains(err.Error(), "reader on host reader") {
				t.Errorf("the prune says %v", err)
			}
			if left := p.left("condemned", "going"); len(left) > 0 {
				t.Errorf("left by a prune that gave up: %q", left)
			}
		}
		if !p.has(pack) {
			t.Errorf("the pack is gone while %q is read", reads)
		}
		p.must(reader.End(t.Context()))
	}
	if r := p.prune(); r.Deleted != 1 || p.has(pack) {
		t.Errorf("after the reader: %+v", r)
	}
}

// TestReadUnder: a reader that the store takes no session of warns and reads all the same, and one
// whose session was removed says so when something is missing.
func TestReadUnder(t *testing.T) {
	p := newScene(t)
	p.st.once("put", "sessions", func() error { return obs.ErrAccess })
	var warned error
	read := false
	p.must(p.paused.ReadUnder(t.Context(), SessionOptions{Host: "h", Warn: func(err error) { warned = err }}, "", func(context.Context) error {
		read = true
		return nil
	}))
	if !read || !errors.Is(warned, obs.ErrAccess) {
		t.Errorf("read: %v, warned of %v", read, warned)
	}
	for _, removed := range []bool{false, true} {
		err := p.v.ReadUnder(t.Context(), SessionOptions{Host: "h"}, "", func(context.Context) error {
			if removed {
				p.must(p.v.st.Delete(t.Context(), p.left("sessions")...))
			}
			return &CorruptError{Object: "x", Reason: "is missing"}
		})
		if !errors.Is(err, ErrCorrupt) || strings.Contains(fmt.Sprint(err), "was removed from the vault") != removed {
			t.Errorf("removed %v: %v", removed, err)
		}
	}
}
