package vault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// mustDo ends the test with an error.
func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// notes puts one small object of each kind into the vault of the source.
func (s *copySides) notes(t *testing.T) (hold Hold) {
	t.Helper()
	ctx := t.Context()
	refs, err := s.v.Backups(ctx, "")
	mustDo(t, err)
	hold, err = s.v.Hold(ctx, SessionOptions{Host: "h"}, refs[0], "audit", time.Time{})
	mustDo(t, err)
	mustDo(t, s.v.ForgetBackups(ctx, "h", "old", refs[:1]))
	_, err = s.v.Claim(ctx, ClaimOptions{Instance: refs[0].Instance, Host: "h", Identity: "identity"})
	mustDo(t, err)
	mustDo(t, s.v.PutLook(ctx, Look{Name: s.v.LookName("identity"), Life: "x", Count: 1}))
	_, err = s.v.BeginSession(ctx, SessionOptions{Host: "h", Instance: "i"})
	mustDo(t, err)
	name := refs[0].Instance + "/00000001-0123456789abcdef"
	object, err := s.v.sealSmall("decision", decisionMagic, name, &decisionBody{Backup: refs[0].ID, Over: []string{refs[1].ID}})
	mustDo(t, err)
	mustDo(t, s.from.Put(ctx, s.v.decisionsPrefix()+name, object))
	return hold
}

// TestCopyOfSmallObjects: decisions and holds go into the copy. Marks, claims, looks and sessions
// stay behind.
func TestCopyOfSmallObjects(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 3)
		hold := s.notes(t)
		o := s.options(keyed)
		o.Verify = true
		r := s.mustCopy(t, o)
		if r.Decisions.Copied != 1 || r.Holds.Copied != 1 || r.Holds.Missing != 1 {
			t.Errorf("decisions %+v, holds %+v", r.Decisions, r.Holds)
		}
		for _, prefix := range []string{"decisions/", "holds/"} {
			if from, to := keysOf(t, s.from, "/"+prefix), keysOf(t, s.to, "/"+prefix); len(to) != 1 || !slices.Equal(from, to) {
				t.Errorf("%s: the source has %q, the copy %q", prefix, from, to)
			}
		}
		for _, prefix := range []string{"forgotten/", "claims/", "looks/", "sessions/", "going/"} {
			if to := keysOf(t, s.to, "/"+prefix); len(to) > 0 {
				t.Errorf("the copy has %q", to)
			}
		}
		copied, err := Open(t.Context(), s.to, "verify", nil, s.id)
		mustDo(t, err)
		if held, err := copied.Holds(t.Context()); err != nil || len(held) != 1 || held[0].Reason != hold.Reason {
			t.Errorf("holds of the copy: %+v, %v", held, err)
		}
		if r := s.mustCopy(t, o); r.Decisions.Copied+r.Holds.Copied+r.Holds.Missing > 0 || r.Verified == 0 {
			t.Errorf("the second copy: %+v", r)
		}
		// A hold that was removed at the source stays in the copy, where somebody may need it.
		mustDo(t, s.v.Unhold(t.Context(), hold.ID))
		if r := s.mustCopy(t, o); r.Holds.Extra != 1 || len(keysOf(t, s.to, "/holds/")) != 1 {
			t.Errorf("after the hold of the source was removed: %+v", r.Holds)
		}
	})
}

// TestCopyOfDamagedHold: the fault is reported, and the object is never put.
func TestCopyOfDamagedHold(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		key := s.v.holdsPrefix() + strings.Repeat("0", 32)
		mustDo(t, s.from.Put(t.Context(), key, []byte("no hold")))
		r, err := Copy(t.Context(), s.from, s.to, s.options(keyed))
		if err != nil || r.Whole() || len(r.Failed) != 1 || r.Failed[0].Object != key {
			t.Errorf("copy: %+v, %v", r, err)
		}
		if left := keysOf(t, s.to, "/holds/"); len(left) > 0 {
			t.Errorf("the copy has %q", left)
		}
	})
}

// forgottenAtSource copies a vault, and then deletes one copied backup at the source.
func forgottenAtSource(t *testing.T) (s *copySides, copied *Vault, old BackupRef, o CopyOptions) {
	t.Helper()
	s = newCopySides(t, 6)
	backupOf(t, s.v, "old", 1, 500, 540)
	o = s.options(true)
	s.mustCopy(t, o)
	refs, err := s.v.Backups(t.Context(), "old")
	mustDo(t, err)
	collect(t, s.v, refs[0])
	copied, err = Open(t.Context(), s.to, "verify", nil, s.id)
	mustDo(t, err)
	o.DeleteExtra = true
	return s, copied, refs[0], o
}

// TestCopyKeepsHeldBackups: a hold in the destination keeps a backup that the source has deleted,
// with its packs, until the hold is over.
func TestCopyKeepsHeldBackups(t *testing.T) {
	s, copied, old, o := forgottenAtSource(t)
	hold, err := copied.Hold(t.Context(), SessionOptions{Host: "h"}, old, "audit", time.Time{})
	mustDo(t, err)
	var warned []error
	o.Warn = func(err error) { warned = append(warned, err) }
	if r := s.mustCopy(t, o); r.Backups.Removed+r.Packs.Removed > 0 || !strings.Contains(fmt.Sprint(warned), "holds keep them") {
		t.Errorf("beside a hold: %+v, warnings %v", r, warned)
	}
	if n := s.sound(t, s.to); n != 7 {
		t.Errorf("the copy has %d backups, want 7", n)
	}
	// A hold that nobody can read keeps everything.
	junk := copied.holdsPrefix() + strings.Repeat("0", 32)
	mustDo(t, s.to.Put(t.Context(), junk, []byte("no hold")))
	if _, err := Copy(t.Context(), s.from, s.to, o); !errors.Is(err, ErrCorrupt) {
		t.Errorf("beside a damaged hold: %v", err)
	}
	mustDo(t, s.to.Delete(t.Context(), junk))
	mustDo(t, copied.Unhold(t.Context(), hold.ID))
	_, err = copied.Hold(t.Context(), SessionOptions{Host: "h"}, old, "over", time.Now().Add(-time.Hour))
	mustDo(t, err)
	o.Session.Host = "copier"
	hook := &hooked{Store: s.to, before: func(op, _ string) error {
		if op != "delete" {
			return nil
		}
		sessions, err := copied.Sessions(t.Context())
		for _, session := range sessions {
			if session.Host != "copier" {
				t.Errorf("a session of the copy does not tell its host: %+v", session)
			}
		}
		return err
	}}
	r, err := Copy(t.Context(), s.from, hook, o)
	if err != nil || r.Backups.Removed != 1 || r.Packs.Removed == 0 {
		t.Errorf("after the hold is over: %+v, %v", r, err)
	}
	if left := keysOf(t, s.to, "/going/"); len(left) > 0 || len(keysOf(t, s.to, "/sessions/")) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestHoldAgainstDeleteExtra: at every instant of the
// hold, either the hold is refused, or the backup stays.
func TestHoldAgainstDeleteExtra(t *testing.T) {
	held, refused := 0, 0
	for n := 0; ; n++ {
		s, copied, old, o := forgottenAtSource(t)
		var mu sync.Mutex
		seen, ran := 0, false
		var herr error
		hook := &hooked{Store: s.to, before: func(string, string) error {
			mu.Lock()
			defer mu.Unlock()
			if seen++; seen == n+1 {
				ran = true
				_, herr = copied.Hold(t.Context(), SessionOptions{Host: "h"}, old, "audit", time.Time{})
			}
			return nil
		}}
		_, err := Copy(t.Context(), s.from, hook, o)
		if err != nil && !errors.Is(err, ErrInUse) {
			t.Fatalf("hold before request %d: %v", n, err)
		}
		if !ran {
			break
		}
		_, serr := s.to.Stat(t.Context(), copied.manifestKey(old.Instance, old.ID))
		switch {
		case herr == nil && serr == nil:
			held++
		case errors.Is(herr, ErrTooLate) && len(keysOf(t, s.to, "/holds/")) == 0:
			refused++
		default:
			t.Fatalf("hold before request %d: the hold says %v, the backup %v", n, herr, serr)
		}
		if left := keysOf(t, s.to, "/going/"); len(left) > 0 {
			t.Errorf("hold before request %d: left %q", n, left)
		}
	}
	if held == 0 || refused == 0 {
		t.Errorf("%d holds came in time and %d too late, want some of both", held, refused)
	}
}
