package restore_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// listing names the entries of a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// A volume is restored beside its place, put into it, taken out and put
// into it again, and the replaced volume goes; each step can be done twice.
// On btrfs the volume becomes a subvolume, also in the place of a folder.
func TestPlace(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("new"), 0o600))
	v := newVault(t, obs.NewMemory())
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: src}}})
	must(t, err)
	for _, kind := range []string{"folder", "ext4", "xfs", "btrfs"} {
		for _, before := range []string{"nothing", "empty folder", "folder", "subvolume"} {
			if before == "subvolume" && kind != "btrfs" {
				continue
			}
			t.Run(kind+"/"+before, func(t *testing.T) {
				dir := testbed.Dir(t)
				if kind != "folder" {
					testbed.Need(t, "root", kind)
					dir = filepath.Join(testbed.Filesystem(t, kind, 512<<20), "volumes")
					must(t, os.Mkdir(dir, 0o700))
				}
				target := filepath.Join(dir, "data")
				switch before {
				case "empty folder", "folder":
					must(t, os.Mkdir(target, 0o755))
				case "subvolume":
					if out, err := exec.Command("btrfs", "subvolume", "create", target).CombinedOutput(); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
				}
				old := before == "folder" || before == "subvolume"
				if old {
					must(t, os.WriteFile(filepath.Join(target, "file"), []byte("old"), 0o600))
				}
				if holds, err := restore.Holds(target); err != nil || holds != old {
					t.Errorf("holds %v, %v", holds, err)
				}
				p, err := restore.PlaceOf(target, "job1", "data")
				must(t, err)
				must(t, p.Discard())
				if err := p.Put(); !errors.Is(err, restore.ErrPlace) {
					t.Errorf("put before the restore: %v", err)
				}
				_, err = restore.Run(t.Context(), restore.Options{
					Vault: v, Ref: vault.BackupRef{Instance: "i", ID: res.BackupID}, Dest: p.Stage, Volume: "data", Subvolume: true,
				})
				must(t, err)
				p.Tree, err = restore.Identify(p.Stage)
				must(t, err)
				for range 2 {
					must(t, p.Put())
					must(t, p.Put())
					if in, err := p.Placed(); !in || err != nil || content(t, filepath.Join(target, "file")) != "new" {
						t.Fatalf("after put: %v, %v", in, err)
					}
					must(t, p.Back())
					must(t, p.Back())
					if in, err := p.Placed(); in || err != nil {
						t.Fatalf("after back: %v, %v", in, err)
					}
					if old && content(t, filepath.Join(target, "file")) != "old" {
						t.Error("what was there did not come back")
					}
				}
				must(t, p.Put())
				if before != "nothing" { // a tree that is not known to be the old one stays
					if err := p.Discard(); !errors.Is(err, restore.ErrPlace) {
						t.Errorf("discard of an unknown tree: %v", err)
					}
				}
				p.Old, err = restore.Identify(p.Stage)
				must(t, err)
				must(t, p.Discard())
				must(t, p.Discard())
				if got := listing(t, dir); got != "data" {
					t.Errorf("left: %s", got)
				}
				if content(t, filepath.Join(target, "file")) != "new" {
					t.Error("the restored file is gone")
				}
				var st unix.Stat_t
				must(t, unix.Stat(target, &st))
				if kind == "btrfs" && st.Ino != 256 {
					t.Error("it is no subvolume")
				}
			})
		}
	}
}

// The leftovers of an interrupted restore are found by
// the name of its stage, and nothing else is touched.
func TestDiscardFindsUnfinishedRestores(t *testing.T) {
	dir := testbed.Dir(t)
	p, err := restore.PlaceOf(filepath.Join(dir, "data"), "job1", "data")
	must(t, err)
	other, err := restore.PlaceOf(filepath.Join(dir, "data"), "job2", "data")
	must(t, err)
	for _, name := range []string{"." + filepath.Base(p.Stage) + ".holdfast-restore-123", filepath.Base(other.Stage), "data", ".data.holdfast-restore-9"} {
		must(t, os.MkdirAll(filepath.Join(dir, name, "volume", "sub"), 0o700))
	}
	must(t, p.Discard())
	if got, want := listing(t, dir), ".data.holdfast-restore-9 "+filepath.Base(other.Stage)+" data"; got != want {
		t.Errorf("left %s, want %s", got, want)
	}
	if err := (restore.Place{Target: p.Target, Stage: p.Target}).Discard(); err == nil {
		t.Error("a path that is no stage was discarded")
	}
}

// Places over which nothing can be renamed are refused before anything is fetched.
func TestPlaceRefusals(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	mount := testbed.Ext4(t)
	dir := testbed.Dir(t)
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Symlink(filepath.Dir(mount), filepath.Join(dir, "link")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "way")))
	for target, want := range map[string]string{
		mount:                           "it is a mount point",
		filepath.Dir(mount):             "is mounted inside of it",
		filepath.Join(dir, "pipe"):      "it is neither a folder nor a file",
		filepath.Join(dir, "dangling"):  "that leads nowhere",
		filepath.Join(dir, "link"):      "write the real path",
		filepath.Join(dir, "way", "in"): "write the real path",
		filepath.Join(dir, "no", "way"): "the folder that holds it does not exist",
	} {
		if _, err := restore.PlaceOf(target, "job1", "data"); !errors.Is(err, restore.ErrPlace) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", target, err, want)
		}
	}
}

// A root that can't be renamed directly, for its flags or its project,
// is put into place, out of it and into it again, over a root that
// can't be renamed either, and each keeps its flags and project.
func TestPlaceOfSealedRoots(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		for _, flag := range []string{"i", "a", "project"} {
			if flag == "project" && kind != "xfs" {
				continue // the others keep project ids only where they were made so, or not at all
			}
			t.Run(kind+"/"+flag, func(t *testing.T) {
				testbed.Need(t, "root", kind, "chattr")
				mount := testbed.Filesystem(t, kind, 512<<20)
				src, dir := filepath.Join(mount, "src"), filepath.Join(mount, "volumes")
				target := filepath.Join(dir, "data")
				writeFiles(t, src, "file", "new")
				writeFiles(t, target, "file", "old")
				if flag == "project" {
					tool(t, mount, "chattr", "-p", "7", dir)
					tool(t, mount, "chattr", "+P", dir)
					tool(t, mount, "chattr", "-p", "8", src)
					tool(t, mount, "chattr", "-p", "9", target)
				} else {
					tool(t, mount, "chattr", "+"+flag, src, target)
				}
				fresh, old := lsattr(t, "-pd", src), lsattr(t, "-pd", target)
				v := newVault(t, obs.NewMemory())
				p, err := restore.PlaceOf(target, "job1", "data")
				must(t, err)
				_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: backUp(t, v, src), Dest: p.Stage, Subvolume: true})
				must(t, err)
				p.Tree, err = restore.Identify(p.Stage)
				must(t, err)
				check := func(path, want, holds string) {
					t.Helper()
					if got := lsattr(t, "-pd", path); got != want {
						t.Errorf("%s has %q, want %q", path, got, want)
					}
					if got := content(t, filepath.Join(path, "file")); got != holds {
						t.Errorf("%s holds %q, want %q", path, got, holds)
					}
				}
				must(t, p.Put())
				check(target, fresh, "new")
				check(p.Stage, old, "old")
				must(t, p.Back())
				check(target, old, "old")
				must(t, p.Put())
				p.Old, err = restore.Identify(p.Stage)
				must(t, err)
				must(t, p.Discard())
				check(target, fresh, "new")
				if got := listing(t, dir); got != "data" {
					t.Errorf("left: %s", got)
				}
			})
		}
	}
}
