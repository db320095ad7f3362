package restore_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// TestPowerCutLeavesNoVolumeWithoutItsName: before a restored volume gets into its
// place, each image and the folder that holds the names of several volumes are
// flushed, in any order of the volumes; then the folder of the place is flushed.
func TestPowerCutLeavesNoVolumeWithoutItsName(t *testing.T) {
	tree, data := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o600))
	source := func(name string) backup.Source {
		path := filepath.Join(data, name)
		must(t, os.WriteFile(path, []byte(strings.Repeat(name, 100000)), 0o600))
		return backup.Source{Volume: name, Root: path}
	}
	a, b, folder := source("a"), source("b"), backup.Source{Volume: "tree", Root: tree}
	for name, sources := range map[string][]backup.Source{
		"one image": {a}, "images": {a, b}, "a tree before an image": {folder, a}, "a tree after an image": {b, folder},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t, obs.NewMemory())
			res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: sources})
			must(t, err)
			f := testbed.StartFUSE(t)
			var mu sync.Mutex
			var calls []string
			f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, path string) syscall.Errno {
				if op == testbed.FUSESync || op == testbed.FUSESyncFolder || op == testbed.FUSERename || op == testbed.FUSERenameNew || op == testbed.FUSECreate {
					parts := strings.Split(path, "/")
					if strings.HasPrefix(parts[0], ".dest.") {
						parts[0] = "work"
					}
					mu.Lock()
					defer mu.Unlock()
					calls = append(calls, string(op)+" "+strings.Join(parts, "/"))
				}
				return 0
			}})
			dest := filepath.Join(f.Point, "dest")
			_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: vault.BackupRef{Instance: "i", ID: res.BackupID}, Dest: dest})
			must(t, err)
			placed := slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, string(testbed.FUSERename)) }) // with or without replacing
			if placed < 0 {
				t.Fatalf("nothing comes to its place: %q", calls)
			}
			before := func(first, second string) {
				t.Helper()
				i := slices.Index(calls, first)
				j := slices.Index(calls[:placed], second)
				if i < 0 || j < i {
					t.Errorf("%q is not followed by %q before the rename: %q", first, second, calls)
				}
			}
			for _, s := range sources {
				at := "work/volume"
				if len(sources) > 1 {
					at += "/" + s.Volume
				}
				if s.Volume == "tree" {
					continue // flushed with its file system
				}
				before("create "+at, "sync "+at)
				if len(sources) > 1 {
					before("create "+at, "sync folder work/volume")
				}
			}
			if !slices.Contains(calls[placed:], "sync folder .") {
				t.Errorf("the folder of the place is not flushed after the rename: %q", calls)
			}
		})
	}
}

// TestCacheDiskFailsNoRestore: a catalogue that can't be left costs
// the next backup time, and the restore nothing.
func TestCacheDiskFailsNoRestore(t *testing.T) {
	testbed.Need(t, "root")
	tree := t.TempDir()
	makeTree(t, tree, 3, 50)
	v := newVault(t, obs.NewMemory())
	ref := backUp(t, v, tree)
	full := testbed.Tmpfs(t, "size=4k")
	// all that there is room for
	must(t, os.WriteFile(filepath.Join(full, "filler"), make([]byte, 4096), 0o600))
	sealed := testbed.Tmpfs(t, "size=1m,ro")
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, cache := range map[string]string{
		"full": full, "read only": sealed, "a file": file, "nowhere": "/proc/holdfast", "a name that is too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300)),
	} {
		dest := filepath.Join(testbed.Ext4(t), "restored")
		var trouble []error
		res, err := restore.Run(t.Context(), restore.Options{
			Vault: v, Ref: ref, Dest: dest, CatalogueDir: cache, Trouble: func(err error) { trouble = append(trouble, err) },
		})
		must(t, err)
		if res.WarningCount > 0 || len(trouble) != 1 {
			t.Errorf("%s: %v, trouble %v", name, res.Warnings, trouble)
		}
	}
}
