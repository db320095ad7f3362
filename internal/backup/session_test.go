package backup_test

import (
	"sync/atomic"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
)

// TestBackupRunsUnderASession: a session is there before the first pack and gone after the manifest, and after a failure.
func TestBackupRunsUnderASession(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	makeTree(t, dir, 1, 20, 1)
	var seen atomic.Int64
	o := backup.Options{
		Vault: v, Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
		PackIntent: func(string) error {
			all, err := v.Sessions(t.Context())
			if len(all) == 1 && all[0].Instance == "cp-1" && all[0].Host == "h" {
				seen.Add(1)
			}
			return err
		},
	}
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if seen.Load() == 0 {
		t.Error("no session while packs were stored")
	}
	o.Sources[0].Root = dir + "/not there"
	if _, err := backup.Run(t.Context(), o); err == nil {
		t.Error("a backup of nothing")
	}
	if all, err := v.Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("sessions are left: %v, %v", all, err)
	}
}

// TestSessionForgottenMeanwhile: an operator who takes the host for dead costs a backup a second run, and nothing else.
func TestSessionForgottenMeanwhile(t *testing.T) {
	st := obs.NewMemory()
	v := newVault(t, st)
	dir := t.TempDir()
	want := makeTree(t, dir, 2, 20, 1)
	var forgotten atomic.Bool
	o := backup.Options{
		Vault: v, Instance: "cp-1", Host: "h", Sources: []backup.Source{{Volume: "data", Root: dir}},
		PackIntent: func(string) error {
			if forgotten.Swap(true) {
				return nil
			}
			all, err := v.Sessions(t.Context())
			for _, s := range all {
				if err := st.Delete(t.Context(), v.Info().ID+"/sessions/"+s.ID); err != nil {
					return err
				}
			}
			return err
		},
	}
	res, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := v.Backups(t.Context(), "")
	if err != nil || len(refs) != 1 || refs[0].ID != res.BackupID {
		t.Fatalf("backups %v, %v", refs, err)
	}
	compare(t, contents(t, v, refs[0]), want)
}
