package vault_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/vault"
)

// claims makes a claim of a host on instance i.
func claims(t *testing.T, v *vault.Vault, host string, takeOver bool) ([]vault.Claim, error) {
	t.Helper()
	return v.Claim(t.Context(), vault.ClaimOptions{
		Instance: "i", Host: host, Identity: "identity of " + host, Job: "job of " + host, Backup: "b", Seq: 7, Silence: time.Hour, TakeOver: takeOver,
	})
}

// holders are the hosts that have a claim on instance i.
func holders(t *testing.T, v *vault.Vault) (hosts []string) {
	t.Helper()
	all, err := v.Claims(t.Context(), "i")
	must(t, err)
	for _, c := range all {
		if c.Instance != "i" || c.Seq != 7 || c.Backup != "b" || c.Job != "job of "+c.Host || c.Renewed.IsZero() {
			t.Errorf("claim %+v", c)
		}
		hosts = append(hosts, c.Host)
	}
	return hosts
}

// TestClaimKeepsOthersOut: the second host is refused and leaves nothing,
// the first may claim again, and after it let go the second one has it.
func TestClaimKeepsOthersOut(t *testing.T) {
	v, _ := newVault(t)
	for range 2 {
		if taken, err := claims(t, v, "a", false); err != nil || len(taken) > 0 {
			t.Fatalf("%v, %v", taken, err)
		}
	}
	var held *vault.ClaimedError
	if _, err := claims(t, v, "b", false); !errors.As(err, &held) || held.Both || !strings.Contains(err.Error(), "host a has claimed instance i") {
		t.Errorf("a second host: %v", err)
	}
	if got := holders(t, v); fmt.Sprint(got) != "[a]" {
		t.Errorf("claimed by %v", got)
	}
	if _, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: "other", Host: "b", Identity: "identity of b"}); err != nil {
		t.Errorf("another instance: %v", err)
	}
	no := func(vault.Claim) bool { return false }
	if kept, lost, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: no}); err != nil || len(kept)+len(lost) > 0 {
		t.Errorf("let go: %v, %v, %v", kept, lost, err)
	}
	if _, err := claims(t, v, "b", false); err != nil {
		t.Errorf("after the first let go: %v", err)
	}
	if got := holders(t, v); fmt.Sprint(got) != "[b]" {
		t.Errorf("claimed by %v", got)
	}
	if _, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: "i", Host: "c", TakeOver: true}); err == nil {
		t.Error("a host without an identity claims")
	}
}

// TestClaimOfASilentHost: a claim is taken over after the host gave no sign of life, by the clock
// of the store, and never while it does. The host that comes back learns of it, and lets go.
func TestClaimOfASilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _ := newVault(t)
		defer v.Close()
		yes := func(vault.Claim) bool { return true }
		_, err := claims(t, v, "a", false)
		must(t, err)
		for range 5 { // for hours
			time.Sleep(59 * time.Minute)
			if _, err := claims(t, v, "b", false); err == nil {
				t.Error("the claim of a living host is taken over")
			}
			if kept, lost, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: yes}); err != nil || len(kept) != 1 || len(lost) > 0 {
				t.Errorf("kept %v, lost %v, %v", kept, lost, err)
			}
		}
		time.Sleep(61 * time.Minute)
		taken, err := claims(t, v, "b", false)
		if err != nil || len(taken) != 1 || taken[0].Host != "a" {
			t.Errorf("after silence: %v, %v", taken, err)
		}
		if got := holders(t, v); fmt.Sprint(got) != "[b]" {
			t.Errorf("claimed by %v", got)
		}
		if kept, _, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: yes}); err != nil || len(kept) > 0 {
			t.Errorf("a dead host's claim came back: %v, %v", kept, err)
		}
	})
}

// TestClaimIsTakenOverByAnOperator: also from a living host, which
// finds out even where its own sign of life crossed the takeover.
func TestClaimIsTakenOverByAnOperator(t *testing.T) {
	v, _ := newVault(t)
	_, err := claims(t, v, "a", false)
	must(t, err)
	kept := map[string][]byte{}
	for key := range keysOf(t, v) {
		if strings.Contains(key, "/claims/") {
			kept[key] = read(t, v.Store(), key)
		}
	}
	if taken, err := claims(t, v, "b", true); err != nil || len(taken) != 1 {
		t.Fatalf("%v, %v", taken, err)
	}
	for key, b := range kept { // as if it had been put a moment later
		must(t, v.Store().Put(t.Context(), key, b))
	}
	none, lost, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: func(vault.Claim) bool { return true }})
	if err != nil || len(none) > 0 || len(lost) != 1 || lost[0].Host != "b" {
		t.Errorf("kept %v, lost to %v, %v", none, lost, err)
	}
	if got := holders(t, v); fmt.Sprint(got) != "[b]" {
		t.Errorf("claimed by %v", got)
	}
}

// TestClaimsRace: of hosts that claim at once, never two succeed, and whoever fails leaves nothing.
func TestClaimsRace(t *testing.T) {
	v, _ := newVault(t)
	won := 0
	for range 50 {
		var mu sync.Mutex
		var winners []string
		var all sync.WaitGroup
		for _, host := range []string{"a", "b", "c"} {
			all.Go(func() {
				if _, err := claims(t, v, host, false); err == nil {
					mu.Lock()
					defer mu.Unlock()
					winners = append(winners, host)
				}
			})
		}
		all.Wait()
		if got := holders(t, v); len(winners) > 1 || fmt.Sprint(got) != fmt.Sprint(winners) {
			t.Errorf("%v claimed it, the vault says %v", winners, got)
		}
		won += len(winners)
		for _, host := range []string{"a", "b", "c"} {
			_, _, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of " + host, Keeps: func(vault.Claim) bool { return false }})
			must(t, err)
		}
	}
	t.Logf("%d of 50 races had a winner", won)
}

// TestClaimAndRenewalAtOnce: the keeper of claims renews a claim of the host while a prepare on
// the host claims the same instance. Both succeed, and a claim that is let go stays away.
func TestClaimAndRenewalAtOnce(t *testing.T) {
	v, _ := newVault(t)
	yes := func(vault.Claim) bool { return true }
	for range 20 {
		if _, err := claims(t, v, "a", false); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if _, err := claims(t, v, "a", false); err != nil {
					t.Errorf("claim: %v", err)
				}
			})
			group.Go(func() {
				if _, lost, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: yes}); err != nil || len(lost) > 0 {
					t.Errorf("renew: %v, %v", lost, err)
				}
			})
		}
		group.Wait()
		if got := holders(t, v); fmt.Sprint(got) != "[a]" {
			t.Fatalf("claimed by %v", got)
		}
		group.Go(func() {
			if err := v.Unclaim(t.Context(), "i", "identity of a"); err != nil {
				t.Errorf("let go: %v", err)
			}
		})
		group.Go(func() {
			if _, _, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "identity of a", Keeps: yes}); err != nil {
				t.Errorf("renew: %v", err)
			}
		})
		group.Wait()
		if got := holders(t, v); len(got) != 0 {
			t.Fatalf("claimed by %v after the release", got)
		}
	}
}
