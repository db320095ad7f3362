package backup_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// impatient retries as an agent does, without its waits.
var impatient = obs.RetryPolicy{MaxAttempts: 6, Base: time.Microsecond, Cap: time.Microsecond}

// packs lists the names of all packs of a store.
func packs(t *testing.T, st obs.Store) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for in, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if _, after, ok := strings.Cut(in.Key, "/packs/"); ok {
			all[after[strings.LastIndexByte(after, '/')+1:]] = true
		}
	}
	return all
}

// afterFaults checks that a backup with faults leaves a sound vault. failed is the
// backup's error; st is the store without the faults. Either there is a backup, which
// verifies, or there is none and a second Run makes one. Packs that no manifest names then
// are packs of the failed backup: FORMAT.md allows a writer that ends early to leave them.
func afterFaults(t *testing.T, seed int, st obs.Store, o backup.Options, failed error) {
	t.Helper()
	v := o.Vault
	left := map[string]bool{}
	if failed != nil {
		left = packs(t, st)
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatalf("seed %d: the second backup, without faults: %v", seed, err)
		}
	}
	refs, err := v.Backups(t.Context(), o.Instance)
	// A manifest whose confirmation was lost is a whole backup,
	// though its caller was told that it failed.
	if err != nil || len(refs) == 0 || failed == nil && len(refs) != 1 || len(refs) > 2 {
		t.Fatalf("seed %d: backups %v, %v", seed, refs, err)
	}
	report, err := v.Verify(t.Context(), vault.VerifyOptions{ReadDataPercent: 100})
	if err != nil || len(report.Damaged) != 0 || report.Backups != len(refs) {
		t.Fatalf("seed %d: verify: %+v, %v", seed, report, err)
	}
	named := map[string]bool{}
	for _, ref := range refs {
		m, err := v.Manifest(t.Context(), ref)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, p := range m.Packs {
			named[fmt.Sprint(p.ID)] = true
		}
	}
	for name := range packs(t, st) {
		if !named[name] && !left[name] {
			t.Errorf("seed %d: no manifest names pack %s, and no failed backup left it", seed, name)
		}
	}
}

// twoViews makes a vault in a store and opens it again by way of another, with faults.
func twoViews(t *testing.T, direct, faulty obs.Store) (calm, shaken *vault.Vault) {
	t.Helper()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if calm, err = vault.Create(t.Context(), direct, "tenant", nil, nil, id); err != nil {
		t.Fatal(err)
	}
	if shaken, err = vault.Open(t.Context(), faulty, "tenant", nil, id); err != nil {
		t.Fatal(err)
	}
	return calm, shaken
}

func clean(failed error) bool {
	return failed == nil || errors.Is(failed, obs.ErrUnavailable) || errors.Is(failed, obs.ErrNoSpace) || errors.Is(failed, vault.ErrCorrupt)
}

// TestBackupsWithFaults makes 1,000 backups to a store in which calls fail by chance.
func TestBackupsWithFaults(t *testing.T) {
	dir := t.TempDir()
	want := makeTree(t, dir, 20, 12, 0)
	failures, faults := 0, 0
	for seed := range 1000 {
		odds := obstest.Odds{Before: 0.1, After: 0.1, Short: 0.05, Lag: 0.2}
		switch seed % 4 {
		case 1:
			odds.Damage = 0.02
		case 2:
			odds.Hard = 0.02
		case 3:
			odds.Before, odds.After = 0.4, 0.3 // some calls outlast all their tries
		}
		st := obs.NewMemory()
		chaos := obstest.NewChaos(st, uint64(seed), obstest.Odds{})
		calm, shaken := twoViews(t, st, obs.Retry(chaos, impatient))
		chaos.Set(odds)
		o := backup.Options{Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}}
		o.Vault = shaken
		_, failed := backup.Run(t.Context(), o)
		faults += chaos.Set(obstest.Odds{})
		if failed != nil {
			failures++
		}
		if !clean(failed) {
			t.Errorf("seed %d: it failed for another reason: %v", seed, failed)
		}
		o.Vault = calm
		afterFaults(t, seed, st, o, failed)
		if refs, err := calm.Backups(t.Context(), "cp-1"); seed%25 == 0 && err == nil {
			compare(t, contents(t, calm, refs[0]), want)
		}
		shaken.Close()
		calm.Close()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d faults; %d of 1,000 backups failed cleanly", faults, failures)
	if failures == 0 || failures > 700 || faults < 1000 {
		t.Errorf("%d faults and %d failed backups: the odds test nothing", faults, failures)
	}
}

// TestBackupsThroughABadNetwork makes backups to a real server through one network fault after the
// other. It heals after a few requests broke; in every third round it stays, and the backup fails.
func TestBackupsThroughABadNetwork(t *testing.T) {
	m := testbed.StartMinIO(t)
	dir := t.TempDir()
	makeTree(t, dir, 21, 12, 2)
	type attributes = map[string]int
	const up, down = testbed.ToServer, testbed.FromServer
	faults := []struct {
		kind, direction string
		attributes      attributes
	}{
		{"latency", up, attributes{"latency": 10, "jitter": 5}},
		{"bandwidth", up, attributes{"rate": 20_000}},
		{"slicer", up, attributes{"average_size": 4000, "size_variation": 1000}},
		{"limit_data", up, attributes{"bytes": 200_000}},
		{"limit_data", down, attributes{"bytes": 300}},
		{"limit_data", down, attributes{"bytes": 3000}},
		{"reset_peer", up, attributes{"timeout": 2}},
		{"reset_peer", down, attributes{"timeout": 0}},
		{"timeout", up, attributes{"timeout": 50}},
		{"timeout", down, attributes{"timeout": 0}},
	}
	for seed := range 3 * len(faults) {
		fault, round, bucket := faults[seed%len(faults)], seed/len(faults), m.Bucket(t)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			x := testbed.StartToxic(t, m.Endpoint)
			direct := openStore(t, m.URL(bucket, ""), obs.Options{Getenv: m.Getenv})
			var broken atomic.Int64
			policy := obs.RetryPolicy{Base: time.Millisecond, Cap: 10 * time.Millisecond, MaxElapsed: time.Minute}
			stall := time.Minute
			if fault.kind == "timeout" {
				// the time after which an unanswered request ends; each further try waits longer
				stall = time.Second / 2
			}
			if round == 2 {
				policy.MaxElapsed = time.Second
			} else {
				policy.OnRetry = func(obs.RetryEvent) {
					if broken.Add(1) == int64(2+3*round) {
						x.Heal()
					}
				}
			}
			faulty := openStore(t, m.URLVia(x.Endpoint, bucket, ""), obs.Options{Getenv: m.Getenv, Stall: stall, Retry: &policy})
			calm, shaken := twoViews(t, direct, faulty)
			x.Add(fault.kind, fault.direction, fault.attributes)
			o := backup.Options{Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}}
			o.Vault = shaken
			_, failed := backup.Run(t.Context(), o)
			if !clean(failed) || failed != nil && round < 2 {
				t.Errorf("seed %d, %s %s: %v", seed, fault.kind, fault.direction, failed)
			}
			o.Vault = calm
			afterFaults(t, seed, direct, o, failed)
			shaken.Close()
			calm.Close()
			_ = faulty.Close()
			_ = direct.Close()
		})
	}
}

func openStore(t *testing.T, url string, o obs.Options) obs.Store {
	t.Helper()
	s, err := obs.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
