package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// lsattr gives the flags and the project of a file as lsattr prints them.
func lsattr(t *testing.T, option, path string) string {
	t.Helper()
	out, _, _ := strings.Cut(tool(t, "/", "lsattr", option, path), "/")
	return strings.TrimSpace(out)
}

// TestRestoreOfAnImmutableRoot: a root that could not be renamed is renamed all the same.
func TestRestoreOfAnImmutableRoot(t *testing.T) {
	testbed.Need(t, "btrfs", "chattr")
	mount := testbed.Btrfs(t)
	src, dst := filepath.Join(mount, "src"), filepath.Join(mount, "dst")
	writeFiles(t, src, "in/file", "content")
	tool(t, src, "chattr", "-R", "+i", ".")
	tool(t, mount, "chattr", "+C", ".") // the target would inherit this flag
	v := newVault(t, obs.NewMemory())
	res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: backUp(t, v, src), Dest: dst})
	must(t, err)
	if res.WarningCount > 0 {
		t.Errorf("warnings: %v", res.Warnings)
	}
	for _, name := range []string{"", "in", "in/file"} {
		if a, b := lsattr(t, "-d", filepath.Join(src, name)), lsattr(t, "-d", filepath.Join(dst, name)); a != b || !strings.Contains(b, "i") {
			t.Errorf("%q: %s, %s", name, a, b)
		}
	}
}

// TestRestoreIntoAProject: a folder whose children inherit its
// project takes no folder of another one, unless that was made in it.
func TestRestoreIntoAProject(t *testing.T) {
	testbed.Need(t, "xfs", "chattr")
	mount := testbed.Xfs(t)
	src, into := filepath.Join(mount, "src"), filepath.Join(mount, "into")
	writeFiles(t, src, "other/file", "content", "none", "")
	tool(t, src, "chattr", "-p", "8", "other", "other/file")
	must(t, os.Mkdir(into, 0o755))
	tool(t, mount, "chattr", "-p", "7", "into")
	tool(t, mount, "chattr", "+P", "into")
	v := newVault(t, obs.NewMemory())
	for _, project := range []string{"0", "9"} {
		tool(t, src, "chattr", "-p", project, ".")
		dst := filepath.Join(into, "dst"+project)
		res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: backUp(t, v, src), Dest: dst})
		must(t, err)
		if res.WarningCount > 0 {
			t.Errorf("warnings: %v", res.Warnings)
		}
		for _, name := range []string{"", "none", "other", "other/file"} {
			if a, b := lsattr(t, "-pd", filepath.Join(src, name)), lsattr(t, "-pd", filepath.Join(dst, name)); a != b {
				t.Errorf("root of project %s, %q: %s, %s", project, name, a, b)
			}
		}
	}
}

// TestFailedRestoreRemovesWhatIsImmutable: what keeps a user from
// removing a file does not keep a failed restore.
func TestFailedRestoreRemovesWhatIsImmutable(t *testing.T) {
	testbed.Need(t, "ext4", "chattr")
	mount := testbed.Ext4(t)
	src, dst := filepath.Join(mount, "src"), filepath.Join(mount, "into", "dst")
	must(t, os.MkdirAll(filepath.Dir(dst), 0o755))
	for i := range 600 { // more than a window has: they are done when the damage is found
		writeFiles(t, src, fmt.Sprintf("a/%d/f", i%7), "", fmt.Sprintf("a/%d/f%d", i%7, i), "")
	}
	writeFiles(t, src, "z", strings.Repeat("content", 100))
	tool(t, src, "chattr", "-R", "+i", "a/1", "a/2")
	tool(t, src, "chattr", "-R", "+a", "a/3")
	tool(t, src, "chattr", "+i", "a")
	st := obs.NewMemory()
	v := newVault(t, st)
	ref := backUp(t, v, src)
	vol, err := v.Manifest(t.Context(), ref)
	must(t, err)
	var content vault.Loc
	must(t, v.Items(t.Context(), &vol.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			if it.Path == "z" {
				content = it.Extents[0].Chunk
			}
		}
		return nil
	}))
	rewrite(t, st, largest(t, st, content.Pack.String()), func(b []byte) []byte { b[content.Off+3] ^= 1; return b })
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dst}); err == nil {
		t.Fatal("a damaged chunk was restored")
	}
	left, err := os.ReadDir(filepath.Dir(dst))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFlagsThatTheTargetLacks are warnings, and the next backup
// does not take them from the catalogue.
func TestFlagsThatTheTargetLacks(t *testing.T) {
	testbed.Need(t, "btrfs", "ext4", "chattr")
	from, to, cache := testbed.Btrfs(t), testbed.Ext4(t), t.TempDir()
	src, dst := filepath.Join(from, "src"), filepath.Join(to, "dst")
	writeFiles(t, src, "cow", "", "both", "", "dump", "d")
	tool(t, src, "chattr", "+C", "cow")
	tool(t, src, "chattr", "+Cd", "both")
	tool(t, src, "chattr", "+d", "dump")
	writeFiles(t, src, "cow", "content", "both", "content")
	v := newVault(t, obs.NewMemory())
	res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: backUp(t, v, src), Dest: dst, CatalogueDir: cache})
	must(t, err)
	if res.WarningCount != 2 || !strings.Contains(res.Warnings[0].What, "no copy on write (C)") {
		t.Errorf("warnings: %v", res.Warnings)
	}
	flags, _ := flagsStored(t, v, dst, cache)
	want := map[string]tree.Flags{"": 0, "cow": 0, "both": tree.NoDump, "dump": tree.NoDump}
	if fmt.Sprint(flags) != fmt.Sprint(want) {
		t.Errorf("the restored tree is stored with %v", flags)
	}
}

// TestFlagsOfUnchangedFiles: a file that is not read keeps its
// flags in the next backup, and a change of flags is seen.
func TestFlagsOfUnchangedFiles(t *testing.T) {
	testbed.Need(t, "ext4", "chattr")
	src, cache := filepath.Join(testbed.Ext4(t), "src"), t.TempDir()
	writeFiles(t, src, "empty", "", "kept", "k", "changed", "c", "large", string(bytes.Repeat([]byte("large"), 200_000)))
	tool(t, src, "chattr", "+A", "empty", "kept", "large")
	v := newVault(t, obs.NewMemory())
	want := map[string]tree.Flags{"": 0, "empty": tree.NoAtime, "kept": tree.NoAtime, "large": tree.NoAtime, "changed": 0}
	if got, _ := flagsStored(t, v, src, cache); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("first: %v", got)
	}
	time.Sleep(3 * time.Second) // younger files are read again in any case
	flagsStored(t, v, src, cache)
	tool(t, src, "chattr", "+d", "changed", "large")
	want["changed"], want["large"] = tree.NoDump, tree.NoAtime|tree.NoDump
	got, unchanged := flagsStored(t, v, src, cache)
	if fmt.Sprint(got) != fmt.Sprint(want) || unchanged != 2 {
		t.Errorf("again: %v, %d files not read", got, unchanged)
	}
}

// flagsStored backs up dir and gives the flags of every entry of
// the backup, and how many files it did not open.
func flagsStored(t *testing.T, v *vault.Vault, dir, cache string) (map[string]tree.Flags, uint64) {
	t.Helper()
	res, err := backup.Run(t.Context(), backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: dir}}, CatalogueDir: cache,
	})
	must(t, err)
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	must(t, err)
	m, err := v.Manifest(t.Context(), ref)
	must(t, err)
	flags := map[string]tree.Flags{}
	must(t, v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			if !it.Continued {
				flags[it.Path] = it.Flags
			}
		}
		return nil
	}))
	return flags, res.Unchanged
}
