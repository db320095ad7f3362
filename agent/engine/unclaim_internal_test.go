package engine

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// deafStore hangs in each removal of a claim until the gate opens, whatever the context says.
type deafStore struct {
	obs.Store
	gate chan struct{}
}

func (s deafStore) Delete(ctx context.Context, keys ...string) error {
	if strings.Contains(keys[0], "/claims/") {
		<-s.gate
	}
	return s.Store.Delete(ctx, keys...)
}

// TestUnclaimOnAHungStore: a store that hangs in the kernel, which no context ends, holds the
// report of a release up for seconds. The claim can be let go once the store answers.
func TestUnclaimOnAHungStore(t *testing.T) {
	looking(t, func(t *testing.T, b *backups, st *askedStore, open map[string]*vault.Vault) {
		gate := make(chan struct{})
		free := sync.OnceFunc(func() { close(gate) })
		defer free()
		id, err := vault.GenerateIdentity()
		if err != nil {
			t.Fatal(err)
		}
		v, err := vault.Create(t.Context(), deafStore{st, gate}, "deaf", nil, nil, id)
		if err != nil {
			t.Fatal(err)
		}
		opened := &openVault{turn: make(chan struct{}, 1), vault: v}
		opened.turn <- struct{}{}
		b.vaults.open["deaf"] = opened
		r := restores{log: b.log, self: b.self, patience: b.patience, vaults: b.vaults}
		for _, claimed := range []*vault.Vault{v, open["acme"]} {
			if _, err := claimed.Claim(t.Context(), vault.ClaimOptions{Instance: "phone-1", Host: "host-1", Identity: b.self.Identity.ID, Job: "job-1"}); err != nil {
				t.Fatal(err)
			}
		}
		claims := func(v *vault.Vault) int {
			t.Helper()
			all, err := v.Claims(t.Context(), "phone-1")
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		began := time.Now()
		if err := r.Unclaim(t.Context(), heldJob("deaf")); !NoAnswer(err) || time.Since(began) > unclaimTime {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if n := claims(v); n != 1 {
			t.Errorf("%d claims while the store hangs", n)
		}
		// The claims in other vaults are let go meanwhile.
		if err := r.Unclaim(t.Context(), heldJob("acme")); err != nil || claims(open["acme"]) != 0 {
			t.Errorf("another vault: %v, %d claims", err, claims(open["acme"]))
		}
		free()
		synctest.Wait()
		if err := r.Unclaim(t.Context(), heldJob("deaf")); err != nil || claims(v) != 0 {
			t.Errorf("after the store answered: %v, %d claims", err, claims(v))
		}
	})
}
