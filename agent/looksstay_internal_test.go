package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestLooksThatStay: with credentials that only append, a host goes on through many lives with the
// looks that it could not delete, puts one look in each life beside the looks before power-downs,
// and still finds a copy of itself.
func TestLooksThatStay(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault) {
		st.set(func(_ context.Context, op, _ string) error {
			if op == "delete" {
				return obs.ErrAccess
			}
			return nil
		})
		v, path := open["acme"], filepath.Join(t.TempDir(), LooksFile)
		live := func(path string) *looks {
			l := newLooks(a, path)
			if err := l.load(); err != nil {
				t.Fatal(err)
			}
			return l
		}
		ctx := t.Context()
		const lives, downs = 12, 3
		for n := range lives {
			l := live(path)
			for range 40 {
				if err := l.look(ctx, v); err != nil {
					t.Fatalf("life %d: %v", n, err)
				}
			}
			for range downs { // each needs a look of its own
				if err := l.leave(ctx, v); err != nil {
					t.Fatalf("life %d, before a power-down: %v", n, err)
				}
			}
			if a.standing.reason() != nil {
				t.Fatalf("life %d stands still: %v", n, a.standing.reason())
			}
		}
		// The very first look has nothing to delete, so the second one finds out that looks stay.
		if puts := strings.Count(st.requests(), "put"); puts != lives*(1+downs)+1 {
			t.Errorf("%d looks in %d lives", puts, lives)
		}

		// The folder is copied, both go on, and the copy is the one that stands still.
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), LooksFile)
		l := live(path)
		if err := l.look(ctx, v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		copied := live(other)
		if err := copied.look(ctx, v); err == nil || a.standing.reason() == nil {
			t.Errorf("a copy goes on beside a later life: %v", err)
		}
	})
}

// TestCopyOfALifeIsToldByItsLooks: where looks stay, a life that goes on finds the look of a copy
// that was started from its own state, and puts a look at which the copy stands still.
func TestCopyOfALifeIsToldByItsLooks(t *testing.T) {
	looking(t, func(t *testing.T, a *Agent, st *askedStore, open map[string]*vault.Vault) {
		st.set(func(_ context.Context, op, _ string) error {
			if op == "delete" {
				return obs.ErrAccess
			}
			return nil
		})
		v, path := open["acme"], filepath.Join(t.TempDir(), LooksFile)
		ctx := t.Context()
		l := newLooks(a, path)
		for range 5 {
			if err := l.look(ctx, v); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), LooksFile)
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		copied := newLooks(a, other)
		if err := copied.load(); err != nil {
			t.Fatal(err)
		}
		// The copy knows all looks of the original, and puts its own.
		if err := copied.look(ctx, v); err != nil {
			t.Fatal(err)
		}
		if err := l.look(ctx, v); err != nil || a.standing.reason() != nil {
			t.Fatalf("the original: %v, %v", err, a.standing.reason())
		}
		if err := copied.look(ctx, v); err == nil || a.standing.reason() == nil {
			t.Errorf("the copy goes on: %v", err)
		}
	})
}
