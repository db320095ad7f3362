package restore_test

import (
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
)

// TestRestoreWithAWrongClock: a clock that was set back by hours while a
// volume was restored holds up nobody, and the next backup reads all: a
// later change could have the time of a file that was restored before.
func TestRestoreWithAWrongClock(t *testing.T) {
	for back, known := range map[time.Duration]bool{0: true, 3 * time.Hour: false} {
		v := newVault(t, obs.NewMemory())
		source := t.TempDir()
		makeTree(t, source, 7, 30)
		res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: source}}})
		must(t, err)
		ref, err := v.Newest(t.Context(), "i")
		must(t, err)
		cache, dest := t.TempDir(), filepath.Join(t.TempDir(), "dest")
		done := make(chan error, 1)
		go func() {
			_, err := restore.Run(t.Context(), restore.Options{
				Vault: v, Ref: ref, Dest: dest, CatalogueDir: cache, Now: func() time.Time { return time.Now().Add(-back) },
			})
			done <- err
		}()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Minute):
			t.Fatal("the restore waits for the clock")
		}
		again, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: dest}}, CatalogueDir: cache,
		})
		must(t, err)
		if (again.BytesRead == 0) != known || (again.Unchanged > 0) != known {
			t.Errorf("clock set back by %s: %d of %d files are known, want all: %v", back, again.Unchanged, res.Files, known)
		}
	}
}
