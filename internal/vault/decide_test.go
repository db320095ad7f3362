package vault_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault"
)

// forkIn stores a backup and two backups from it, which make a fork.
func forkIn(t *testing.T, v *vault.Vault) (first, a, b string) {
	t.Helper()
	write := func(seq uint64, parent string) string {
		t.Helper()
		l, err := v.Lineage(t.Context(), "i")
		must(t, err)
		m := &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: l.NewID(seq, time.Unix(1700000000, 0), parent, false)}
		must(t, v.WriteManifest(t.Context(), m))
		return m.ID
	}
	first = write(1, "")
	return first, write(2, first), write(3, first)
}

// decidedFor is the backup that counts by the decision which the backup of that id learns of.
func decidedFor(t *testing.T, v *vault.Vault, id string) string {
	t.Helper()
	d, err := v.Decided(t.Context(), "i", id)
	must(t, err)
	if d == nil {
		return ""
	}
	return d.Backup
}

// TestFirstDecisionCounts: a second host that accepts the other backup is refused with the first
// decision, and stores nothing; only a decision anew counts more. Both branches learn of the end.
func TestFirstDecisionCounts(t *testing.T) {
	v, _ := newVault(t)
	first, a, b := forkIn(t, v)
	for _, id := range []string{a, b} {
		if got := decidedFor(t, v, id); got != "" {
			t.Errorf("before any decision %s learns that %s counts", id, got)
		}
	}
	for range 2 {
		_, err := v.AcceptFirst(t.Context(), "i", a, "host-a", "the first")
		must(t, err)
	}
	var decided *vault.DecidedError
	_, err := v.AcceptFirst(t.Context(), "i", b, "host-b", "the second")
	if !errors.As(err, &decided) || decided.Decision.Backup != a || decided.Decision.Host != "host-a" || !strings.Contains(err.Error(), "by the first on host host-a") {
		t.Errorf("a second decision: %v", err)
	}
	if all, err := v.Decisions(t.Context(), "i"); err != nil || len(all) != 1 {
		t.Errorf("decided %+v, %v", all, err)
	}
	for _, id := range []string{a, b, first} {
		if got := decidedFor(t, v, id); got != a {
			t.Errorf("%s learns that %q counts, not %s", id, got, a)
		}
	}
	_, err = v.Accept(t.Context(), "i", b, "host-b", "anew")
	must(t, err)
	if got := decidedFor(t, v, a); got != b {
		t.Errorf("after a decision anew %q counts, not %s", got, b)
	}
}

// TestDecisionsRace: hosts that decide at once for backups of their own agree
// in the end, whichever wins, and the vault has one decision.
func TestDecisionsRace(t *testing.T) {
	for range 50 {
		v, _ := newVault(t)
		_, a, b := forkIn(t, v)
		var mu sync.Mutex
		var agreed []string
		var all sync.WaitGroup
		for _, id := range []string{a, b} {
			all.Go(func() {
				_, err := v.AcceptFirst(t.Context(), "i", id, "a host", "a person")
				var decided *vault.DecidedError
				counts := id
				if errors.As(err, &decided) {
					counts = decided.Decision.Backup
				} else if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				agreed = append(agreed, counts)
			})
		}
		all.Wait()
		newest, err := v.Newest(t.Context(), "i")
		if slices.Sort(agreed); err != nil || len(agreed) != 2 || agreed[0] != agreed[1] || newest.ID != agreed[0] {
			t.Errorf("the hosts say %v, and the newest is %s, %v", agreed, newest.ID, err)
		}
		if decisions, err := v.Decisions(t.Context(), "i"); err != nil || slices.ContainsFunc(decisions, func(d vault.Decision) bool { return d.Backup != agreed[0] }) {
			t.Errorf("decided %+v, %v", decisions, err)
		}
		v.Close()
	}
}
