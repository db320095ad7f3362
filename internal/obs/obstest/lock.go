package obstest

import (
	"errors"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// extend is for stores without lock.
func extend(t *testing.T, s obs.Store) {
	if r := s.Capabilities().Retain; r != 0 {
		t.Fatalf("the store locks objects for %v: RunLock is for such stores", r)
	}
	put(t, s, "k", []byte("x"))
	for _, key := range []string{"k", "none"} {
		wantErr(t, "Extend without lock", s.Extend(t.Context(), key, time.Now().Add(time.Hour)), errors.ErrUnsupported)
	}
	if in, err := s.Stat(t.Context(), "k"); err != nil || !in.RetainUntil.IsZero() || in.Cold {
		t.Errorf("Stat: %+v, %v, want neither lock nor cold", in, err)
	}
}

// RunLock checks the promises of obs.Store about locks, in a store that is empty, asks
// retention of the objects below "locked/" and of no others, and belongs to the caller.
func RunLock(t *testing.T, s obs.Store) {
	retain := s.Capabilities().Retain
	if retain == 0 {
		t.Fatal("the store has no lock")
	}
	// The store's clock may differ a little from this host's.
	const slack = time.Minute
	until := func(key string) time.Time {
		t.Helper()
		in, err := s.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return in.RetainUntil
	}
	start := time.Now()
	put(t, s, "locked/k", []byte("x"))
	put(t, s, "free/k", []byte("x"))
	first := until("locked/k")
	if first.Before(start.Add(retain-slack)) || first.After(time.Now().Add(retain+slack)) {
		t.Errorf("locked until %v, want %v from now", first, retain)
	}
	if at := until("free/k"); !at.IsZero() {
		t.Errorf("an object of which no retention is asked is locked until %v", at)
	}
	longer := start.Add(2*retain + 500*time.Millisecond) // no whole second
	for _, c := range []struct {
		name string
		to   time.Time
		want time.Time // at least
	}{
		{"shorter", start.Add(retain / 2), first},
		{"longer", longer, longer},
		{"the same again", longer, longer},
		{"shorter again", start.Add(retain), longer},
		{"the past", start.Add(-time.Hour), longer},
	} {
		if err := s.Extend(t.Context(), "locked/k", c.to); err != nil {
			t.Errorf("Extend, %s: %v", c.name, err)
		}
		if at := until("locked/k"); at.Before(c.want) || at.After(c.want.Add(slack)) {
			t.Errorf("Extend, %s: locked until %v, want %v", c.name, at, c.want)
		}
	}
	if err := s.Extend(t.Context(), "free/k", longer); err != nil {
		t.Errorf("Extend of an object without lock: %v", err)
	}
	if at := until("free/k"); at.Before(longer) {
		t.Errorf("an object without lock is locked until %v, want %v", at, longer)
	}
	wantErr(t, "Extend of nothing", s.Extend(t.Context(), "locked/none", longer), obs.ErrNotFound)
	holds(t, s, "locked/k", []byte("x"))
}
