package engine

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
	looking(t, func(t *testing.T, b *backups, st *askedStore, open map[string]*vault.Vault) {
		st.set(func(_ context.Context, op, _ string) error {
			if op == "delete" {
				return obs.ErrAccess
			}
			return nil
		})
		v, path := open["acme"], filepath.Join(t.TempDir(), LooksFile)
		live := func(path string) *Looks {
			l := NewLooks(b.log, b.self, b.looks.standing, path)
			if err := l.Load(); err != nil {
				t.Fatal(err)
			}
			return l
		}
		ctx := t.Context()
		const lives, downs = 12, 3
		for n := range lives {
			l := live(path)
			for range 40 {
				if err := l.Look(ctx, v); err != nil {
					t.Fatalf("life %d: %v", n, err)
				}
			}
			for range downs { // each needs a look of its own
				if err := l.leave(ctx, v); err != nil {
					t.Fatalf("life %d, before a power-down: %v", n, err)
				}
			}
			if b.looks.standing.Reason() != nil {
				t.Fatalf("life %d stands still: %v", n, b.looks.standing.Reason())
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
		if err := l.Look(ctx, v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		copied := live(other)
		if err := copied.Look(ctx, v); err == nil || b.looks.standing.Reason() == nil {
			t.Errorf("a copy goes on beside a later life: %v", err)
		}
	})
}

// TestCopyOfALifeIsToldByItsLooks: where looks stay, a life that goes on finds the look of a copy
// that was started from its own state, and puts a look at which the copy stands still.
func TestCopyOfALifeIsToldByItsLooks(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, st *askedStore, open map[string]*vault.Vault) {
		st.set(func(_ context.Context, op, _ string) error {
			if op == "delete" {
				return obs.ErrAccess
			}
			return nil
		})
		v, path := open["acme"], filepath.Join(t.TempDir(), LooksFile)
		ctx := t.Context()
		l := NewLooks(b.log, b.self, b.looks.standing, path)
		for range 5 {
			if err := l.Look(ctx, v); err != nil {
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
		copied := NewLooks(b.log, b.self, b.looks.standing, other)
		if err := copied.Load(); err != nil {
			t.Fatal(err)
		}
		// The copy knows all looks of the original, and puts its own.
		if err := copied.Look(ctx, v); err != nil {
			t.Fatal(err)
		}
		if err := l.Look(ctx, v); err != nil || b.looks.standing.Reason() != nil {
			t.Fatalf("the original: %v, %v", err, b.looks.standing.Reason())
		}
		if err := copied.Look(ctx, v); err == nil || b.looks.standing.Reason() == nil {
			t.Errorf("the copy goes on: %v", err)
		}
	})
}
