package vault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// keeps renews the claims of a host that keeps all, and returns how many were renewed and lost.
func keeps(t *testing.T, v *vault.Vault, host string) string {
	t.Helper()
	kept, lost, err := v.KeepClaims(t.Context(), vault.KeepOptions{
		Host: host, Identity: "identity of " + host, Every: 15 * time.Minute, Keeps: func(vault.Claim) bool { return true },
	})
	return fmt.Sprintf("%d kept, %d lost, %v", len(kept), len(lost), err)
}

// claimKeys are the objects of the claims.
func claimKeys(t *testing.T, v *vault.Vault) (keys []string) {
	t.Helper()
	for key := range keysOf(t, v) {
		if strings.Contains(key, "/claims/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestClaimNamesItsOrigin: a claim names the job by which its host came to have it. Later jobs
// leave that name, unless the host does not keep the claim any more. So a restore that fails can
// let go of its claim, and the claim of an earlier job stays.
func TestClaimNamesItsOrigin(t *testing.T) {
	v, _ := newVault(t)
	claim := func(job string, keeps bool) string {
		t.Helper()
		_, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: "i", Host: "a", Identity: "a", Job: job, Keeps: func(vault.Claim) bool { return keeps }})
		must(t, err)
		all, err := v.Claims(t.Context(), "i")
		must(t, err)
		if len(all) != 1 || all[0].Job != job {
			t.Fatalf("claims after %s: %+v", job, all)
		}
		return all[0].Origin
	}
	for _, step := range []struct {
		job   string
		keeps bool
		want  string
	}{{"j1", true, "j1"}, {"j2", true, "j1"}, {"j3", false, "j3"}, {"j4", true, "j3"}} {
		if got := claim(step.job, step.keeps); got != step.want {
			t.Errorf("origin after %s: %q, want %q", step.job, got, step.want)
		}
	}
	asked := ""
	_, _, err := v.KeepClaims(t.Context(), vault.KeepOptions{Identity: "a", Keeps: func(c vault.Claim) bool { asked = c.Origin; return false }})
	if err != nil || asked != "j3" || len(claimKeys(t, v)) > 0 {
		t.Errorf("asked about the claim of %q, %v, left %v", asked, err, claimKeys(t, v))
	}
}

// TestClaimOfAHostWithSeldomSigns: a host that is configured with a long silence gives signs of
// life more seldom. A host with a short silence waits for several of them all the same.
func TestClaimOfAHostWithSeldomSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _ := newVault(t)
		defer v.Close()
		claim := func(host string) error {
			_, err := v.Claim(t.Context(), vault.ClaimOptions{
				Instance: "i", Host: host, Identity: "identity of " + host, Job: "j", Silence: time.Minute, Every: 15 * time.Minute,
			})
			return err
		}
		must(t, claim("a"))
		for _, pause := range []time.Duration{14 * time.Minute, 45 * time.Minute} {
			time.Sleep(pause)
			var held *vault.ClaimedError
			if err := claim("b"); !errors.As(err, &held) || held.Claims[0].Outlasts(time.Minute) != time.Hour {
				t.Errorf("%s after the last sign of life: %v", pause, err)
			}
			found, err := v.Elsewhere(t.Context(), "identity of b", time.Minute, "i")
			if err != nil || found.Claims["i"].Host != "a" {
				t.Errorf("b looks after %s: %+v, %v", pause, found, err)
			}
			if got := keeps(t, v, "a"); got != "1 kept, 0 lost, <nil>" {
				t.Error(got)
			}
		}
		time.Sleep(61 * time.Minute)
		must(t, claim("b"))
	})
}

// TestNamingOutlastsAShortSilence: a backup that gives signs of life
// counts for a host whose silence is shorter than the time between two of them.
func TestNamingOutlastsAShortSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, _ := newVault(t)
		defer v.Close()
		n, err := v.Name(t.Context(), vault.SessionOptions{Host: "a", Identity: hostid.Identity{ID: "identity of a"}, Instance: "i"})
		must(t, err)
		for range 4 {
			time.Sleep(9*time.Minute + 30*time.Second)
			_, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: "i", Host: "b", Identity: "identity of b", Silence: time.Minute, Writers: true})
			var writes *vault.WritesError
			if !errors.As(err, &writes) {
				t.Errorf("a claim while a backs it up: %v", err)
			}
			found, err := v.Elsewhere(t.Context(), "identity of b", time.Minute, "i")
			if err != nil || found.Writes["i"] != "a" {
				t.Errorf("b sees %+v, %v", found, err)
			}
		}
		must(t, n.End(t.Context()))
	})
}

// TestClaimsOfOthersNeedNoSessions: a session that does not open
// stands in the way of a backup's look, and hides no claim.
func TestClaimsOfOthersNeedNoSessions(t *testing.T) {
	v, st := newVault(t)
	n, err := v.Name(t.Context(), vault.SessionOptions{Host: "a", Identity: hostid.Identity{ID: "identity of a"}, Instance: "j"})
	must(t, err)
	defer func() { _ = n.End(context.Background()) }()
	_, err = claims(t, v, "a", false)
	must(t, err)
	for key := range keysOf(t, v) {
		if strings.Contains(key, "/sessions/") {
			replace(t, st, key, []byte("damaged"))
		}
	}
	if found, err := v.Elsewhere(t.Context(), "identity of b", 0, "i"); err == nil {
		t.Errorf("a session that does not open may name any instance, and is passed over: %+v", found)
	}
	found, err := v.ClaimsOfOthers(t.Context(), "identity of b", 0, "i")
	if err != nil || found["i"].Host != "a" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestPrepareKeepsTheTakeover: the prepare that follows the takeover of a claim leaves in the
// claim which one was taken over, and why. A claim that its host renewed while it was taken over
// keeps nobody out, and its host finds out.
func TestPrepareKeepsTheTakeover(t *testing.T) {
	v, st := newVault(t)
	_, err := claims(t, v, "a", false)
	must(t, err)
	before := claimKeys(t, v)
	object := read(t, st, before[0])
	_, err = v.Claim(t.Context(), vault.ClaimOptions{Instance: "i", Host: "b", Identity: "identity of b", TakeOver: true, Reason: "a burnt down"})
	must(t, err)
	for range 2 {
		must(t, st.Put(t.Context(), before[0], object)) // as if the renewal had crossed the takeover
		if taken, err := claims(t, v, "b", false); err != nil || len(taken) > 0 {
			t.Fatalf("the next prepare: %v, %v", taken, err)
		}
		found, err := v.ClaimsOfOthers(t.Context(), "identity of a", 0, "i")
		if c := found["i"]; err != nil || c.Reason != "a burnt down" || !v.TookOver(c, "identity of a") {
			t.Errorf("a sees %+v, %v", c, err)
		}
		if got := claimKeys(t, v); len(got) != 1 {
			t.Errorf("left: %v", got)
		}
	}
	must(t, st.Put(t.Context(), before[0], object))
	if got := keeps(t, v, "a"); got != "0 kept, 1 lost, <nil>" {
		t.Error(got)
	}
}

// TestDamagedClaimIsPutAnew: the host of a claim that does not open lives,
// so it gives a sign of life, and keeps others out on.
func TestDamagedClaimIsPutAnew(t *testing.T) {
	v, st := newVault(t)
	_, err := claims(t, v, "a", false)
	must(t, err)
	for _, again := range []func(){
		func() {
			if got := keeps(t, v, "a"); got != "1 kept, 0 lost, <nil>" {
				t.Error(got)
			}
		},
		func() { _, err := claims(t, v, "a", false); must(t, err) },
	} {
		replace(t, st, claimKeys(t, v)[0], []byte("damaged"))
		again()
		all, err := v.Claims(t.Context(), "i")
		if err != nil || len(all) != 1 || all[0].Host != "a" || all[0].Identity != "identity of a" || len(claimKeys(t, v)) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
	}
}

// watchedClaims sees the order of the puts and deletes of claims, and may refuse puts.
type watchedClaims struct {
	obs.Store
	mu        sync.Mutex
	refuse    func(key string) bool
	first     string // the key of the first put
	open, max int    // puts without a delete after them
}

func (s *watchedClaims) Put(ctx context.Context, key string, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(key, "/claims/") {
		if s.first == "" {
			s.first = key
		}
		if s.refuse != nil && s.refuse(key) {
			return errors.New("refused")
		}
		s.open++
		s.max = max(s.max, s.open)
	}
	return s.Store.Put(ctx, key, body)
}

func (s *watchedClaims) Delete(ctx context.Context, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	return s.Store.Delete(ctx, keys...)
}

// TestClaimsRenewalGoesOn: each pass renews the claims with the oldest signs of life first, and
// removes the older object of each claim soon after its renewal. So a pass that is cut off leaves
// few objects behind, and the next one goes on.
func TestClaimsRenewalGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &watchedClaims{Store: obs.NewMemory()}
		v, err := vault.Create(t.Context(), st, "tenant", nil, nil, identity(t))
		must(t, err)
		defer v.Close()
		const claims = 40
		for i := range claims {
			_, err := v.Claim(t.Context(), vault.ClaimOptions{Instance: fmt.Sprintf("i%02d", i), Host: "a", Identity: "identity of a", Job: "j"})
			must(t, err)
		}
		late := func(key string) bool { return strings.Contains(key, "/i2") || strings.Contains(key, "/i3") }
		time.Sleep(time.Minute)
		st.open, st.max, st.refuse = 0, 0, late
		if got := keeps(t, v, "a"); !strings.HasPrefix(got, "20 kept, 0 lost, renew the claim on instance i") {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		st.open, st.max, st.refuse, st.first = 0, 0, nil, ""
		if got := keeps(t, v, "a"); got != "40 kept, 0 lost, <nil>" {
			t.Error(got)
		}
		if !late(st.first) {
			t.Errorf("the second pass begins with %s, which the first pass renewed", st.first)
		}
		if st.max > 8 || len(claimKeys(t, v)) != claims {
			t.Errorf("up to %d claims have an older object for a while, and %d objects stay", st.max, len(claimKeys(t, v)))
		}
	})
}

// TestRefusalByAnEarlierStateFolder: a host that lost its state folder is not told to release the
// instance on itself.
func TestRefusalByAnEarlierStateFolder(t *testing.T) {
	v, _ := newVault(t)
	_, err := claims(t, v, "a", false)
	must(t, err)
	n, err := v.Name(t.Context(), vault.SessionOptions{Host: "a", Identity: hostid.Identity{ID: "identity of a"}, Instance: "j"})
	must(t, err)
	defer func() { must(t, n.End(context.Background())) }()
	for _, id := range []string{"i", "j"} {
		_, err = v.Claim(t.Context(), vault.ClaimOptions{Instance: id, Host: "a", Identity: "the next identity of a", Writers: true})
		if err == nil || !strings.Contains(err.Error(), "an earlier state folder of this host") {
			t.Errorf("instance %s: %v", id, err)
		}
	}
}
