package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// badDisks are folders in which nothing can be kept, by their fault.
func badDisks(t *testing.T) map[string]string {
	t.Helper()
	testbed.Need(t, "root")
	full := testbed.Tmpfs(t, "size=64k")
	if err := os.WriteFile(filepath.Join(full, "filler"), make([]byte, 64<<10), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	tight := testbed.Tmpfs(t, "size=48k") // takes folders and the beginning of files
	inodes := testbed.Tmpfs(t, "nr_inodes=2")
	sealed := testbed.Tmpfs(t, "size=1m")
	if err := unix.Mount("", sealed, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"full": full, "full in the middle": tight, "no inodes": inodes, "read only": sealed, "a file": file, "below a file": filepath.Join(file, "x"),
		"a name that is too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300)), "nowhere": "/proc/holdfast/index",
	}
}

// TestCacheDiskFailsNoBackup: with each fault of the disk of the
// catalogues and the index, trees and images are backed up, and
// nothing is stored twice. A warning says that the cache is of no use.
func TestCacheDiskFailsNoBackup(t *testing.T) {
	dir := t.TempDir()
	want := makeTree(t, dir, 7, 300, 1)
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, []byte(strings.Repeat("the content of a disk", 100000)), 0o600); err != nil {
		t.Fatal(err)
	}
	disks := badDisks(t)
	for name, cache := range disks {
		for _, tmp := range []string{t.TempDir(), disks["full"]} {
			t.Setenv("TMPDIR", tmp)
			o := backup.Options{
				Vault: newVault(t, obs.NewMemory()), Instance: "i", Now: inAnHour, CatalogueDir: cache, IndexDir: filepath.Join(cache, "index"),
				Sources: []backup.Source{{Volume: "data", Root: dir}, {Volume: "disk", Root: image}},
			}
			for _, precopy := range []bool{true, false, false} {
				o.Precopy = precopy
				res, err := backup.Run(t.Context(), o)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if res.Lost != 0 || !precopy && res.BytesNew != 0 {
					t.Errorf("%s: %d lost, %d bytes stored anew: %v", name, res.Lost, res.BytesNew, res.Warnings)
				}
				// The first has no index to keep, and a part of one may fit.
				silent := res.WarningCount == 0 && !precopy && name != "full in the middle"
				if silent || res.WarningCount > 6 {
					t.Errorf("%s: %d warnings: %v", name, res.WarningCount, res.Warnings)
				}
				if precopy {
					continue
				}
				got := contents(t, o.Vault, vault.BackupRef{Instance: "i", ID: res.BackupID})
				delete(got, "")
				compare(t, got, want)
			}
		}
	}
}
