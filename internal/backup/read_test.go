package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// randomBytes are n bytes by seed that compress to nothing.
func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// entry is all that a backup keeps of a name.
type entry struct {
	tree.Entry
	content string
}

// entriesOf reads a tree. The times of folders are left out: they change with the names in them.
func entriesOf(t testing.TB, dir string) map[string]entry {
	t.Helper()
	r, err := tree.OpenRoot(dir)
	must(t, err)
	defer r.Close()
	got := map[string]entry{}
	must(t, r.Walk(t.Context(), tree.WalkOptions{}, func(e *tree.Entry) error {
		if e.Kind == tree.Dir {
			e.Mtime = tree.Time{}
		}
		e.Ino, e.Ctime = 0, tree.Time{}
		x := entry{Entry: *e}
		if e.Kind == tree.File {
			b, err := os.ReadFile(filepath.Join(dir, e.Path))
			if err != nil {
				return err
			}
			x.content = string(b)
		}
		got[e.Path] = x
		return nil
	}))
	return got
}

// sameEntries compares a restored tree with the wanted entries.
func sameEntries(t testing.TB, got, want map[string]entry) {
	t.Helper()
	for path, w := range want {
		g, ok := got[path]
		if !ok {
			t.Errorf("%q is not in the backup", path)
		} else if g.content != w.content {
			t.Errorf("%q has %d bytes, want %d, or others", path, len(g.content), len(w.content))
		} else if !reflect.DeepEqual(g.Entry, w.Entry) {
			t.Errorf("%q is %+v, want %+v", path, g.Entry, w.Entry)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is in the backup", path)
		}
	}
}

// restored restores the backup, and checks that its manifest counts what its recipe has.
func restored(t testing.TB, v *vault.Vault, res *backup.Result) string {
	t.Helper()
	return restoredTo(t, v, res, filepath.Join(testbed.Dir(t), "restored"))
}

func restoredTo(t testing.TB, v *vault.Vault, res *backup.Result, dest string) string {
	t.Helper()
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	must(t, err)
	m, err := v.Manifest(t.Context(), ref)
	must(t, err)
	entries := uint64(0)
	must(t, v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			if !it.Continued {
				entries++
			}
		}
		return nil
	}))
	if m.Volumes[0].Entries != entries || res.Entries != entries {
		t.Errorf("the recipe has %d entries, the manifest tells %d, the result %d", entries, m.Volumes[0].Entries, res.Entries)
	}
	_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
	must(t, err)
	return dest
}

// lossesOf are the paths that the backup tells as lost.
func lossesOf(res *backup.Result) map[string]string {
	lost := map[string]string{}
	for _, w := range res.Warnings {
		if w.Lost {
			lost[w.Path] = w.What
		}
	}
	return lost
}

// backUpChanging makes a backup of dir and calls change after the walk has seen everything
// and before anything was read: a lease on the first file makes the one worker wait.
func backUpChanging(t testing.TB, v *vault.Vault, dir string, change func()) *backup.Result {
	t.Helper()
	gate := filepath.Join(dir, "0 gate")
	must(t, os.WriteFile(gate, []byte("gate"), 0o600))
	f, err := os.OpenFile(gate, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	total := uint64(0)
	must(t, filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { total++; return nil }))
	walked := make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	type outcome struct {
		res *backup.Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := backup.Run(ctx, backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Workers: 1,
			Progress: func(p backup.Progress) {
				if p.Entries >= total {
					once.Do(func() { close(walked) })
				}
			},
		})
		done <- outcome{res, err}
	}()
	select {
	case <-walked:
	case o := <-done:
		t.Fatalf("the backup ended before the change: %+v, %v", o.res, o.err)
	}
	change()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	must(t, err)
	o := <-done
	must(t, o.err)
	return o.res
}

// TestReplacedFileIsRead: what took the place of a file between the
// walk and the read is in the backup, whole and with its own metadata.
func TestReplacedFileIsRead(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testbed.Filesystem(t, kind, 1<<30)
			in := func(name string) string { return filepath.Join(dir, "d", name) }
			must(t, os.Mkdir(in(""), 0o755))
			small, large := []byte("a small file"), randomBytes(1, 3<<20)
			names := []string{"empty to small", "small to small", "small to large", "small to empty", "small to symlink", "small to fifo", "small written", "small grown"}
			for _, n := range names {
				content := small
				if strings.HasPrefix(n, "empty") {
					content = nil
				}
				must(t, os.WriteFile(in(n), content, 0o600))
			}
			for _, n := range []string{"large to small", "large to large", "large to empty", "large to device", "large cut short", "large sparse"} {
				must(t, os.WriteFile(in(n), large, 0o600))
			}
			must(t, os.WriteFile(in("small to folder"), small, 0o600), os.WriteFile(in("large to folder"), large, 0o600), os.WriteFile(in("kept"), small, 0o640))
			replace := func(name string, content []byte) {
				tmp := in("tmp")
				must(t, os.WriteFile(tmp, content, 0o600), os.Chown(tmp, 1234, 5678), unix.Chmod(tmp, 0o4751),
					unix.Lsetxattr(tmp, "user.origin", []byte("new"), 0), os.Chtimes(tmp, time.Unix(1000, 0), time.Unix(1_000_000_000, 123456000)),
					os.Rename(tmp, in(name)))
			}
			v := newVault(t, obs.NewMemory())
			res := backUpChanging(t, v, dir, func() {
				replace("empty to small", small)
				replace("small to small", []byte("another small file"))
				replace("small to large", randomBytes(2, 5<<20))
				replace("small to empty", nil)
				replace("large to small", []byte("a small file in place of a large one"))
				replace("large to large", randomBytes(3, 2<<20))
				replace("large to empty", nil)
				must(t, os.Remove(in("small to symlink")), os.Symlink("kept", in("small to symlink")), os.Lchown(in("small to symlink"), 7, 8))
				must(t, os.Remove(in("small to fifo")), unix.Mkfifo(in("small to fifo"), 0o640))
				must(t, os.Remove(in("large to device")), unix.Mknod(in("large to device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
				must(t, os.Remove(in("small to folder")), os.MkdirAll(in("small to folder/x"), 0o700))
				must(t, os.Remove(in("large to folder")), os.MkdirAll(in("large to folder/x"), 0o700))
				must(t, os.WriteFile(in("small written"), []byte("it was written to in place"), 0), os.WriteFile(in("small grown"), randomBytes(4, 4<<20), 0))
				must(t, os.Truncate(in("large cut short"), 1<<20+1), os.Truncate(in("large sparse"), 0), os.Truncate(in("large sparse"), 10<<20))
			})
			want := entriesOf(t, dir)
			for _, folder := range []string{"d/small to folder", "d/large to folder"} {
				delete(want, folder)
				delete(want, folder+"/x")
			}
			sameEntries(t, entriesOf(t, restored(t, v, res)), want)
			if lost := lossesOf(res); len(lost) != 2 || lost["d/small to folder"] == "" || lost["d/large to folder"] == "" {
				t.Errorf("lost %q", lost)
			}
		})
	}
}

// TestVanishedFileIsLeftOut: a file that is gone when it is to be read has no item in the recipe.
func TestVanishedFileIsLeftOut(t *testing.T) {
	dir := testbed.Ext4(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(in("folder/of"), 0o755), os.MkdirAll(in("linked"), 0o755))
	gone := []string{"gone small", "gone large", "folder/of/f", "linked/f", "zz gone"}
	for i, name := range gone {
		must(t, os.WriteFile(in(name), randomBytes(byte(i), 1000+i%2*(2<<20)), 0o600))
	}
	must(t, os.WriteFile(in("stays"), []byte("stays"), 0o600))
	v := newVault(t, obs.NewMemory())
	want := entriesOf(t, dir) // the walk sees the folders before they go
	res := backUpChanging(t, v, dir, func() {
		must(t, os.Remove(in("gone small")), os.Remove(in("gone large")), os.RemoveAll(in("folder")), os.Remove(in("zz gone")))
		must(t, os.Rename(in("linked"), in("linked.old")), os.Symlink("linked.old", in("linked")))
	})
	want["0 gate"] = entriesOf(t, dir)["0 gate"]
	for _, path := range gone {
		delete(want, path)
		if !slices.ContainsFunc(res.Warnings, func(w tree.Warning) bool { return w.Path == path }) {
			t.Errorf("nothing is said of %q", path)
		}
	}
	sameEntries(t, entriesOf(t, restored(t, v, res)), want)
	if res.Files != 2 {
		t.Errorf("%d files, want 2", res.Files)
	}
}

// TestFurtherNameTakesOver: when the first name of a file does not
// lead to it any more, another name has its content.
func TestFurtherNameTakesOver(t *testing.T) {
	dir := testbed.Ext4(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	sizes := map[string]int{"small": 1000, "large": 2 << 20}
	for kind, n := range sizes {
		for i, how := range []string{"kept", "removed", "replaced", "both removed", "both replaced", "all removed", "first to folder"} {
			name := in(kind + " " + how)
			must(t, os.WriteFile(name+" 1", randomBytes(byte(i), n), 0o640), os.Chown(name+" 1", 11, 12), unix.Lsetxattr(name+" 1", "user.a", []byte(how), 0))
			for link := 2; link <= 4; link++ {
				must(t, os.Link(name+" 1", fmt.Sprint(name, " ", link)))
			}
		}
	}
	v := newVault(t, obs.NewMemory())
	res := backUpChanging(t, v, dir, func() {
		for kind := range sizes {
			name := func(how string, n int) string { return in(fmt.Sprint(kind, " ", how, " ", n)) }
			replace := func(path string) {
				must(t, os.WriteFile(path+".new", []byte("another file: "+path), 0o600), os.Rename(path+".new", path))
			}
			must(t, os.Remove(name("removed", 1)), os.Remove(name("both removed", 1)), os.Remove(name("both removed", 2)))
			replace(name("replaced", 1))
			replace(name("both replaced", 1))
			replace(name("both replaced", 2))
			must(t, os.Remove(name("first to folder", 1)), os.Mkdir(name("first to folder", 1), 0o700))
			for n := range 4 {
				must(t, os.Remove(name("all removed", n+1)))
			}
		}
	})
	want := entriesOf(t, dir)
	for kind := range sizes {
		delete(want, kind+" first to folder 1")
	}
	sameEntries(t, entriesOf(t, restored(t, v, res)), want)
}

// TestSavesByRename: an editor saves small and large files by rename,
// again and again. Each backup has one complete version of each.
func TestSavesByRename(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testbed.Filesystem(t, kind, 1<<30)
			save := func(name string, version, size int) error {
				line := fmt.Appendf(nil, "%s %08d\n", name, version)
				tmp := filepath.Join(dir, name+".tmp")
				return errors.Join(os.WriteFile(tmp, bytes.Repeat(line, size/len(line)), 0o600), os.Rename(tmp, filepath.Join(dir, name)))
			}
			sizes := map[string]int{"a": 100, "b": 60 << 10, "c": 3 << 20}
			for name, size := range sizes {
				must(t, save(name, 0, size))
			}
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for name, size := range sizes {
				wg.Go(func() {
					for version := 1; ; version++ {
						select {
						case <-stop:
							return
						default:
						}
						if err := save(name, version, size+version%3*1000); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			defer wg.Wait()
			defer close(stop)
			v := newVault(t, obs.NewMemory())
			for range 10 {
				res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
				must(t, err)
				got := contents(t, v, vault.BackupRef{Instance: "i", ID: res.BackupID})
				for name, size := range sizes {
					lines := bytes.SplitAfter(got[name], []byte("\n"))
					if len(got[name]) < size-100 || !bytes.Equal(bytes.Repeat(lines[0], len(lines)-1), got[name]) {
						t.Errorf("%s has %d bytes that are no version of it", name, len(got[name]))
					}
				}
				for path, what := range lossesOf(res) {
					if _, ok := sizes[path]; ok {
						t.Errorf("%s is told as lost: %s", path, what)
					}
				}
			}
		})
	}
}

// tinyChunks makes a vault in which a file of 30 MiB has more extents than
// the pipeline holds back: its item is in the recipe before its end was read.
func tinyChunks(t testing.TB) *vault.Vault {
	t.Helper()
	id, err := vault.GenerateIdentity()
	must(t, err)
	v, err := vault.CreateWith(t.Context(), obs.NewMemory(), "tenant", nil, nil, id, vault.Params{Chunk: chunk.Params{Min: 64, Avg: 256, Max: 1024}, Pack: 4 << 20})
	must(t, err)
	t.Cleanup(v.Close)
	return v
}
