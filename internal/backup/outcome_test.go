package backup_test

import (
	"errors"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/vault"
)

// TestUnknownOutcomeOfBackup: a backup whose manifest was stored without an answer is
// made, also when the second try is refused. A backup that stays in doubt fails, and the
// next backup of the process tells its outcome, follows it, and makes no fork with it.
func TestUnknownOutcomeOfBackup(t *testing.T) {
	manifests := func(key string) bool { return strings.Contains(key, "/backups/") }
	dir := t.TempDir()
	want := makeTree(t, dir, 3, 50, 0)
	f := obstest.NewFaulty(obs.NewMemory())
	o := backup.Options{
		Vault:    newVault(t, obs.Retry(f, obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2})),
		Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}},
	}
	f.Inject(obstest.Fault{Op: obstest.Put, Key: manifests, Times: 1, After: true})
	f.Inject(obstest.Fault{Op: obstest.Put, Key: manifests, Err: obs.ErrAccess})
	first, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, contents(t, o.Vault, vault.BackupRef{Instance: "i", ID: first.BackupID}), want)
	f.Heal()
	f.Inject(obstest.Fault{Op: obstest.Put, Key: manifests, Times: 1})
	f.Inject(obstest.Fault{Op: obstest.Put, Key: manifests, Err: obs.ErrAccess})
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, vault.ErrMayExist) || !errors.Is(err, obs.ErrAccess) {
		t.Fatalf("a backup in doubt: %v", err)
	}
	f.Heal()
	third, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if third.WarningCount != 1 || !strings.Contains(third.Warnings[0].What, "is stored and whole") || len(third.Fork) > 0 || third.Seq != first.Seq+2 {
		t.Errorf("the next backup has number %d after %d, forks %v, warnings %v", third.Seq, first.Seq, third.Fork, third.Warnings)
	}
	refs, err := o.Vault.Backups(t.Context(), "i")
	if err != nil || len(refs) != 3 || refs[1].ID != third.Parent {
		t.Fatalf("backups %v, %v; the last follows %s", refs, err, third.Parent)
	}
	for _, ref := range refs {
		compare(t, contents(t, o.Vault, ref), want)
	}
	if sessions, err := o.Vault.Sessions(t.Context()); err != nil || len(sessions) > 0 {
		t.Errorf("sessions %v are left, %v", sessions, err)
	}
}
