package vault

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// TestPruneProlongsLocks: no lock of a pack ends before the lock of a backup that names it, also
// where the writer left shorter locks. The next prune has nothing to prolong.
func TestPruneProlongsLocks(t *testing.T) {
	p := newSparseScene(t, obs.NewLockedMemory(time.Hour, func(key string, asked time.Duration) time.Duration {
		if strings.Contains(key, "/packs/") {
			return asked / 2
		}
		return Retention(key, asked)
	}))
	m := p.backup("i", 0, 1, 2)
	unprotected := func() int {
		t.Helper()
		r, err := p.v.Verify(t.Context(), VerifyOptions{})
		p.must(err)
		return len(r.Unprotected)
	}
	if n := unprotected(); n == 0 || n != len(m.Packs) {
		t.Fatalf("%d packs are unprotected", n)
	}
	o := pruneNow()
	o.ProlongLocks, o.DryRun = true, true
	r, err := p.v.Prune(t.Context(), o)
	if err != nil || r.Prolonged != len(m.Packs) || unprotected() != len(m.Packs) {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	o.DryRun = false
	r, err = p.v.Prune(t.Context(), o)
	if err != nil || r.Prolonged != len(m.Packs) || unprotected() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = p.v.Prune(t.Context(), o); err != nil || r.Prolonged != 0 {
		t.Errorf("once more: %+v, %v", r, err)
	}
}

// TestPruneTellsRefusedLocks: a store that does not prolong a lock is told of, and stops nothing.
func TestPruneTellsRefusedLocks(t *testing.T) {
	p := newSparseScene(t, obs.NewLockedMemory(time.Hour, func(key string, asked time.Duration) time.Duration {
		if strings.Contains(key, "/backups/") {
			return asked
		}
		return 0
	}))
	m := p.backup("i", 0)
	p.st.before = func(op, _ string) error {
		if op == "extend" {
			return obs.ErrAccess
		}
		return nil
	}
	warned := 0
	o := pruneNow()
	o.ProlongLocks, o.Warn = true, func(error) { warned++ }
	r, err := p.paused.Prune(t.Context(), o)
	if err != nil || r.Unprotected != len(m.Packs) || r.Prolonged != 0 || warned != len(m.Packs) {
		t.Errorf("%+v, %v, %d warnings", r, err, warned)
	}
}
