package restore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// TestBackupElsewhere: what another host stored of an instance is compared
// with the tree that was restored here. No file of it shows the same, until
// this host has backed it up once: then no catalogue of its own is needed.
func TestBackupElsewhere(t *testing.T) {
	testbed.Need(t, "rsync")
	v := newVault(t, obs.NewMemory())
	there := t.TempDir()
	makeTree(t, there, 6, 300)
	backUp := func(dir, cache string) *backup.Result {
		t.Helper()
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: dir}}, CatalogueDir: cache,
			// no time of change is too young
			Now: func() time.Time { return time.Now().Add(time.Hour) },
		})
		must(t, err)
		if res.WarningCount != 0 {
			t.Errorf("warnings: %v", res.Warnings)
		}
		return res
	}
	restoreNewest := func(cache string) string {
		t.Helper()
		ref, err := v.Newest(t.Context(), "i")
		must(t, err)
		dest := filepath.Join(t.TempDir(), "dest")
		_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest, CatalogueDir: cache})
		must(t, err)
		return dest
	}
	first := backUp(there, t.TempDir())

	here := restoreNewest("") // without a catalogue of the restored tree
	changed := filepath.Join(here, "d1/e1/f1")
	must(t, os.WriteFile(changed, []byte("changed here"), 0o640))
	if res := backUp(here, t.TempDir()); res.Unchanged != 0 || res.BytesRead+100_000 < first.BytesRead {
		t.Errorf("%d files were taken for those of the other host", res.Unchanged)
	}
	must(t, os.WriteFile(changed, []byte("changed again"), 0o640))
	if res := backUp(here, t.TempDir()); res.BytesRead != uint64(len("changed again")) {
		t.Errorf("read %d bytes, want those of one file", res.BytesRead)
	}
	if d := differences(t, here, restoreNewest("")); d != "" {
		t.Errorf("the last backup differs:\n%s", d)
	}

	cache := t.TempDir()
	here = restoreNewest(cache)
	backUp(here, cache)
	if res := backUp(here, t.TempDir()); res.BytesRead != 0 {
		t.Errorf("with the catalogue that the restore left gone: read %d bytes", res.BytesRead)
	}
}
