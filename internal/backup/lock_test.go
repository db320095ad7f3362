package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// locked wants every backup that is locked now to need no pack that is not locked as long.
func locked(t *testing.T, v *vault.Vault) {
	t.Helper()
	report, err := v.Verify(t.Context(), vault.VerifyOptions{})
	if err != nil || report.Findings() > 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// extensions counts the locks that were prolonged.
type extensions struct {
	obs.Store
	mu  sync.Mutex
	n   int
	err error
}

func (s *extensions) Extend(ctx context.Context, key string, until time.Time) error {
	s.mu.Lock()
	s.n++
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.Store.Extend(ctx, key, until)
}

func (s *extensions) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n
	s.n = 0
	return n
}

// TestLocksOfReusedPacks: daily backups of content that does not change keep its packs
// locked as long as every manifest, and prolong a lock once in five days and not each day.
func TestLocksOfReusedPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		st := &extensions{Store: obs.NewLockedMemory(30*day, vault.Retention)}
		v := newVault(t, st)
		dir := t.TempDir()
		makeTree(t, dir, 60, 10, 2)
		o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir()}
		prolonged := 0
		for range 40 {
			if _, err := backup.Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			locked(t, v)
			prolonged += st.take()
			time.Sleep(day)
		}
		packs := len(packKeys(t, st))
		if least, most := 6*packs, 8*packs; prolonged < least || prolonged > most {
			t.Errorf("in 40 days the locks of %d packs were prolonged %d times, want from %d to %d", packs, prolonged, least, most)
		}
		// A year without backups.
		time.Sleep(365 * day)
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		locked(t, v)
	})
}

// TestBackupThatTakesLong: between the first look at a pack and the
// manifest time passes; the lock is compared again.
func TestBackupThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		st := &extensions{Store: obs.NewLockedMemory(2*day, vault.Retention)}
		v := newVault(t, st)
		dir := t.TempDir()
		makeTree(t, dir, 61, 10, 2)
		o := backup.Options{
			Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
			Pool: backup.NewPool(backup.PoolOptions{}), Precopy: true,
		}
		o.Job = o.Pool.BeginJob()
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * day) // the rounds' packs are locked two and a half days
		o.Precopy = false
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if err := o.Job.End(t.Context()); err != nil {
			t.Error(err)
		}
		if st.take() == 0 {
			t.Error("no lock was prolonged")
		}
		locked(t, v)
	})
}

// TestLocksThatCantBeProlonged: where the store refuses, the content is stored again, the operator
// is told what to allow, and nothing is called damaged. The next backup finds the new packs.
func TestLocksThatCantBeProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		st := &extensions{Store: obs.NewLockedMemory(30*day, vault.Retention), err: fmt.Errorf("not you: %w", obs.ErrAccess)}
		v := newVault(t, st)
		dir := t.TempDir()
		want := makeTree(t, dir, 62, 10, 2)
		o := backup.Options{
			Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
			CatalogueDir: t.TempDir(), IndexDir: t.TempDir(), Now: inAnHour,
			Damaged: func(p vault.LostPack) { t.Errorf("told of %v", p) },
		}
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * day)
		res, err := backup.Run(t.Context(), o)
		if err != nil || res.BytesNew == 0 || len(res.Damaged) > 0 || res.WarningCount != 1 || !strings.Contains(res.Warnings[0].What, "s3:PutObjectRetention") {
			t.Fatalf("%+v, %v", res, err)
		}
		compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
		locked(t, v)
		st.take()
		res, err = backup.Run(t.Context(), o)
		if err != nil || res.BytesNew > 0 || res.WarningCount > 0 || st.take() > 0 {
			t.Errorf("the next: %+v, %v", res, err)
		}
		locked(t, v)
	})
}

// TestExtensionThatFails: a store that does not answer fails the
// backup, and no content is stored again for it.
func TestExtensionThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		st := &extensions{Store: obs.NewLockedMemory(30*day, vault.Retention), err: obs.ErrUnavailable}
		v := newVault(t, st)
		dir := t.TempDir()
		makeTree(t, dir, 63, 10, 0)
		o := backup.Options{Vault: v, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}}
		if _, err := backup.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * day)
		if _, err := backup.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "prolong the lock") {
			t.Errorf("error is %v", err)
		}
	})
}

// TestLocksOnMinIO: a bucket with object lock keeps the packs that a later, longer lock needs.
func TestLocksOnMinIO(t *testing.T) {
	m := testbed.StartMinIO(t)
	bucket := m.LockedBucket(t)
	open := func(retain string) *obstest.Faulty {
		return obstest.NewFaulty(openStore(t, m.URL(bucket, "")+"&retain="+retain, obs.Options{Getenv: m.Getenv, Retention: vault.Retention}))
	}
	short, long := open("1h"), open("10h")
	defer short.Close()
	defer long.Close()
	calm, later := twoViews(t, short, long)
	dir := t.TempDir()
	want := makeTree(t, dir, 64, 20, 2)
	o := backup.Options{Vault: calm, Instance: "i", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}}, IndexDir: t.TempDir()}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	locked(t, calm)
	old := packKeys(t, short)
	o.Vault = later
	res, err := backup.Run(t.Context(), o)
	if err != nil || res.BytesNew > 0 || res.WarningCount > 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	compare(t, contents(t, later, vault.BackupRef{Instance: "i", ID: res.BackupID}), want)
	locked(t, later)
	for _, key := range old {
		if in, err := long.Stat(t.Context(), key); err != nil || time.Until(in.RetainUntil) < 9*time.Hour {
			t.Errorf("%s is locked until %v, %v", key, in.RetainUntil, err)
		}
	}
	n := long.Count(obstest.Extend, "")
	if _, err := backup.Run(t.Context(), o); err != nil || n != len(old) || long.Count(obstest.Extend, "") != n {
		t.Errorf("%d locks of %d packs were prolonged, and then %d more, %v", n, len(old), long.Count(obstest.Extend, "")-n, err)
	}
	// A backup whose packs nobody locked longer, as earlier versions made them, is found.
	if err := os.WriteFile(filepath.Join(dir, "more"), []byte("of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Vault = calm
	if res, err = backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ref := vault.BackupRef{Instance: "i", ID: res.BackupID}
	made, err := calm.Manifest(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	made.Seq, made.Parent, made.Fork = made.Seq+1, "", nil
	made.ID = vault.NewBackupID(made.Seq, time.Now(), false)
	if err := later.WriteManifest(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	report, err := calm.Verify(t.Context(), vault.VerifyOptions{})
	if err != nil || len(report.Damaged) > 0 || len(report.Unprotected) != 1 || !strings.Contains(report.Unprotected[0].Reason, "can be deleted before") ||
		len(report.Unprotected[0].Backups) != 1 || report.Unprotected[0].Backups[0] != "i/"+made.ID {
		t.Errorf("verify: %+v, %v", report, err)
	}
}
