package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestFilesThatChangeMeanwhile: whatever a file does while it is read, the backup can be read, and what
// it does not hold is told.
func TestFilesThatChangeMeanwhile(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	makeTree(t, dir, 9, 20, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for name, size := range map[string]int{"shrinks": 400 << 10, "grows": 5 << 20, "large": 3 << 20} {
		path, full := filepath.Join(dir, name), bytes.Repeat([]byte{0xff}, size)
		if err := os.WriteFile(path, full, 0o600); err != nil {
			t.Fatal(err)
		}
		least := int64(100)
		if name == "large" {
			least = 1 << 20
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = os.Truncate(path, least)
				if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
					_, _ = f.WriteAt(full, 0)
					_ = f.Close()
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for range 6 {
		res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
		if err != nil {
			t.Fatal(err)
		}
		got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})
		for name, b := range got {
			if filepath.Dir(name) == "." && bytes.IndexByte(b, 0) >= 0 && res.Lost == 0 {
				t.Fatalf("%s of %d bytes has a hole that it never had, and nothing was told", name, len(b))
			}
		}
	}
}
