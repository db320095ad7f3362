package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestHostileEntries feeds a target entries that only a forger writes. Nothing beside
// the target may change.
func TestHostileEntries(t *testing.T) {
	file := func(path string) *tree.Entry { return &tree.Entry{Path: path, Kind: tree.File, Mode: 0o644} }
	link := func(path, to string) *tree.Entry {
		return &tree.Entry{Path: path, Kind: tree.File, LinkTo: to, HasLinkTo: true}
	}
	dir := func(path string) *tree.Entry { return &tree.Entry{Path: path, Kind: tree.Dir, Mode: 0o755} }
	symlink := func(path, to string) *tree.Entry { return &tree.Entry{Path: path, Kind: tree.Symlink, Target: to} }
	root := dir("")
	for _, c := range []struct {
		name    string
		entries []*tree.Entry
		want    error
	}{
		{"dots", []*tree.Entry{root, file("../victim/new")}, tree.ErrUnsafePath},
		{"dots inside", []*tree.Entry{root, dir("a"), file("a/../../victim/new")}, tree.ErrUnsafePath},
		{"dot", []*tree.Entry{root, file("./a")}, tree.ErrUnsafePath},
		{"absolute", []*tree.Entry{root, file("/VICTIM/new")}, tree.ErrUnsafePath},
		{"empty element", []*tree.Entry{root, dir("a"), file("a//b")}, tree.ErrUnsafePath},
		{"trailing slash", []*tree.Entry{root, dir("a/")}, tree.ErrUnsafePath},
		{"NUL", []*tree.Entry{root, file("a\x00b")}, tree.ErrUnsafePath},
		{"long name", []*tree.Entry{root, file(strings.Repeat("a", 256))}, tree.ErrUnsafePath},
		{"through a symlink", []*tree.Entry{root, symlink("a", "VICTIM"), file("a/new")}, tree.ErrOrder},
		{"folder over symlink", []*tree.Entry{root, symlink("a", "VICTIM"), dir("a"), file("a/new")}, tree.ErrOrder},
		{"file over symlink", []*tree.Entry{root, symlink("a", "VICTIM/file"), file("a")}, tree.ErrOrder},
		{"duplicate", []*tree.Entry{root, file("a"), file("a")}, tree.ErrOrder},
		{"back again", []*tree.Entry{root, dir("a"), file("b"), file("a/c")}, tree.ErrOrder},
		{"no folder", []*tree.Entry{root, file("a/b")}, tree.ErrOrder},
		{"below a file", []*tree.Entry{root, file("a"), file("a/b")}, tree.ErrOrder},
		{"root twice", []*tree.Entry{root, root}, tree.ErrOrder},
		{"root is a file", []*tree.Entry{file("")}, tree.ErrUnsafePath},
		{"link outside", []*tree.Entry{root, link("a", "../victim/file")}, tree.ErrUnsafePath},
		{"link absolute", []*tree.Entry{root, link("a", "/VICTIM/file")}, tree.ErrUnsafePath},
		{"link through a symlink", []*tree.Entry{root, symlink("a", "VICTIM"), link("b", "a/file")}, tree.ErrUnsafePath},
		{"link to what comes later", []*tree.Entry{root, link("a", "b")}, tree.ErrUnsafePath},
		{"link to nothing", []*tree.Entry{root, link("b", "a")}, tree.ErrUnsafePath},
		{"link to the root", []*tree.Entry{root, link("b", "")}, tree.ErrUnsafePath},
		{"kind", []*tree.Entry{root, {Path: "a", Kind: 99}}, tree.ErrUnsafePath},
		{"negative size", []*tree.Entry{root, {Path: "a", Kind: tree.File, Size: -1}}, tree.ErrUnsafePath},
		{"attribute without name", []*tree.Entry{root, {Path: "a", Kind: tree.Fifo, Xattrs: []tree.Xattr{{Name: ""}}}}, tree.ErrUnsafePath},
		{"attribute with NUL", []*tree.Entry{root, {Path: "a", Kind: tree.Fifo, Xattrs: []tree.Xattr{{Name: "user.a\x00"}}}}, tree.ErrUnsafePath},
		{"time that means now", []*tree.Entry{root, {Path: "a", Kind: tree.Fifo, Mtime: tree.Time{Nsec: unix.UTIME_NOW}}}, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			victim, dst := filepath.Join(top, "victim"), filepath.Join(top, "dst")
			write(t, victim, "file", "precious")
			if err := os.Mkdir(dst, 0o755); err != nil {
				t.Fatal(err)
			}
			before, _ := walk(t, victim)
			target, err := tree.NewTarget(dst, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			var got error
			for _, e := range c.entries {
				e := *e
				e.Path = strings.Replace(e.Path, "/VICTIM", victim, 1)
				e.LinkTo = strings.Replace(e.LinkTo, "/VICTIM", victim, 1)
				e.Target = strings.Replace(e.Target, "VICTIM", victim, 1)
				e.UID, e.GID = uint32(os.Getuid()), uint32(os.Getgid())
				f, err := target.Create(&e)
				if err == nil && f != nil {
					err = target.FinishFile(&e, f)
				}
				if got = err; got != nil {
					break
				}
			}
			if !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			after, _ := walk(t, victim)
			if fmt.Sprint(deref(before)) != fmt.Sprint(deref(after)) {
				t.Errorf("the folder beside the target changed: %v", deref(after))
			}
		})
	}
}

func deref(entries []*tree.Entry) []tree.Entry {
	var all []tree.Entry
	for _, e := range entries {
		all = append(all, *e)
	}
	return all
}

// TestSwappedWhileWalked swaps a folder, a file and a symlink to a secret for each
// other as fast as it goes. Neither a walk nor Open ever gives anything outside.
func TestSwappedWhileWalked(t *testing.T) {
	top := t.TempDir()
	src, outside := filepath.Join(top, "src"), filepath.Join(top, "outside")
	write(t, outside, "secret", "secret", "sub/secret", "secret")
	write(t, src, "dir/secret", "decoy", "dir/sub/secret", "decoy", "file", "decoy", "z", "decoy")
	for name, to := range map[string]string{"dirlink": "../outside", "filelink": "../outside/secret"} {
		if err := os.Symlink(to, filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := unix.Mknod(filepath.Join(src, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(src, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var secret unix.Stat_t
	if err := unix.Stat(filepath.Join(outside, "secret"), &secret); err != nil {
		t.Fatal(err)
	}

	var stop atomic.Bool
	var g errgroup.Group
	for _, pair := range [][2]string{{"dir", "dirlink"}, {"file", "filelink"}, {"file", "device"}, {"z", "pipe"}} {
		a, b := filepath.Join(src, pair[0]), filepath.Join(src, pair[1])
		g.Go(func() error {
			for !stop.Load() {
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
			return nil
		})
	}
	defer g.Wait() //nolint:errcheck // it has none
	defer stop.Store(true)

	r := openRoot(t, src)
	files, opened := 0, 0
	begin := time.Now()
	for time.Since(begin) < time.Second || opened == 0 && time.Since(begin) < time.Minute {
		err := r.Walk(t.Context(), tree.WalkOptions{}, func(e *tree.Entry) error {
			if e.Kind != tree.File || e.HasLinkTo {
				return nil
			}
			files++
			if e.Ino == secret.Ino {
				return fmt.Errorf("%q is the secret", e.Path)
			}
			f, err := r.Open(e, nil)
			if err != nil {
				if !errors.Is(err, tree.ErrVanished) && !errors.Is(err, tree.ErrFolder) {
					return err
				}
				return nil
			}
			if f == nil {
				return nil // it is a link now
			}
			defer f.Close()
			opened++
			buf := make([]byte, 16)
			n, _ := f.Read(buf)
			if string(buf[:n]) != "decoy" {
				return fmt.Errorf("%q holds %q", e.Path, buf[:n])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files seen, %d opened", files, opened)
	if opened == 0 {
		t.Error("no file could be opened")
	}
}

// TestMovedAwayWhileWalked moves a folder out of the tree while the walk is deep inside it,
// below the folders that it keeps open: the way back must not lead to the folder's new place.
func TestMovedAwayWhileWalked(t *testing.T) {
	top := t.TempDir()
	src, outside := filepath.Join(top, "src"), filepath.Join(top, "outside")
	write(t, outside, "zz", "outside")
	deep := strings.TrimSuffix(strings.Repeat("d/", 200), "/")
	write(t, src, deep+"/bottom", "x", "d/zz", "inside", "zz", "inside")
	r := openRoot(t, src)
	var c collector
	var seen []string
	err := r.Walk(t.Context(), tree.WalkOptions{Warn: c.warn}, func(e *tree.Entry) error {
		if strings.HasSuffix(e.Path, "bottom") {
			return os.Rename(filepath.Join(src, "d/d"), filepath.Join(outside, "d"))
		}
		if e.Kind == tree.File {
			seen = append(seen, e.Path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []string{"d/zz", "zz"}) && !slices.Equal(seen, []string{"zz"}) {
		t.Errorf("files seen: %q; warnings %v", seen, c.list)
	}
}

// TestMountsAreNotCrossed puts a mounted folder, a mounted file and a
// subvolume into a tree. The subvolume is a folder like others, where the
// tree has it; a snapshot has a stub in its place, which is a warning.
func TestMountsAreNotCrossed(t *testing.T) {
	testbed.Need(t, "root", "btrfs")
	mount := testbed.Btrfs(t)
	src := filepath.Join(mount, "src")
	tool(t, "/", "btrfs", "-q", "subvolume", "create", src)
	write(t, src, "a", "", "file", "", "mnt/hidden", "", "z", "")
	tool(t, src, "btrfs", "-q", "subvolume", "create", "sub")
	write(t, src, "sub/in", "")
	write(t, mount, "other/in", "")
	snap := filepath.Join(mount, "snap")
	tool(t, "/", "btrfs", "-q", "subvolume", "snapshot", "-r", src, snap)
	for _, m := range [][2]string{{"other", "mnt"}, {"other/in", "file"}} {
		at := filepath.Join(src, m[1])
		tool(t, "/", "mount", "--bind", filepath.Join(mount, m[0]), at)
		t.Cleanup(func() { _ = unix.Unmount(at, unix.UMOUNT_NOFOLLOW) })
	}
	check := func(dir, paths, warned string) {
		t.Helper()
		entries, warnings := walk(t, dir)
		var got, what []string
		for _, e := range entries {
			got = append(got, e.Path)
		}
		for _, w := range warnings {
			what = append(what, w.Path)
		}
		if strings.Join(got, " ") != paths || strings.Join(what, " ") != warned {
			t.Errorf("%s: got %q, warnings %q", dir, got, warnings)
		}
	}
	check(src, " a mnt sub sub/in z", "file mnt")
	check(snap, " a file mnt mnt/hidden sub z", "sub")

	// A read-only snapshot takes a shorter way to a file's content.
	write(t, src, "a", "changed after the snapshot")
	entries, _ := walk(t, snap)
	r := openRoot(t, snap)
	for _, e := range entries {
		if e.Kind != tree.File {
			continue
		}
		f, err := r.Open(e, nil)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := r.Unchanged(e, f); !same || err != nil {
			t.Errorf("%q: %v %v", e.Path, same, err)
		}
		other := *e
		other.Ino++
		if g, err := r.Open(&other, nil); err != nil || other.Ino != e.Ino {
			t.Errorf("%q with another inode: %d, want %d: %v", e.Path, other.Ino, e.Ino, err)
		} else {
			g.Close()
		}
		if _, err := f.Write([]byte("x")); err == nil {
			t.Errorf("%q can be written", e.Path)
		}
		f.Close()
	}
}

// TestGrafts shows snapshots of nested subvolumes in the places of their stubs, deep
// ones and one in another, and opens their content. Snapshots that Holdfast has made of
// other volumes are left out.
func TestGrafts(t *testing.T) {
	testbed.Need(t, "root", "btrfs")
	mount := testbed.Btrfs(t)
	src, snaps := filepath.Join(mount, "src"), filepath.Join(mount, "snaps")
	subvolume := func(path string) { tool(t, "/", "btrfs", "-q", "subvolume", "create", path) }
	subvolume(src)
	deep := strings.Repeat("d/", 100)
	write(t, src, "a", "", "m/x", "", ".holdfast-snapshots/other", "")
	for _, path := range []string{"m/one", "m/one/in", "m/one-more", "z"} {
		subvolume(filepath.Join(src, path))
		write(t, src, path+"/"+deep+"file", path)
	}
	// A folder of snapshots may hold a subvolume that has a snapshot's name: it is no
	// part of the volume.
	tool(t, "/", "btrfs", "-q", "subvolume", "snapshot", "-r", filepath.Join(src, "z"), filepath.Join(src, ".holdfast-snapshots", "hf.h.j.v"))
	if err := os.Mkdir(snaps, 0o700); err != nil {
		t.Fatal(err)
	}
	snapshot := func(path, name string) string {
		tool(t, "/", "btrfs", "-q", "subvolume", "snapshot", "-r", filepath.Join(src, path), filepath.Join(snaps, name))
		return filepath.Join(snaps, name)
	}
	view := openRoot(t, snapshot("", "all"))
	for i, path := range []string{"z", "m/one", "m/one-more", "m/one/in"} {
		if err := view.Graft(path, snapshot(path, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if !view.Still() {
		t.Error("a view of snapshots is not still")
	}
	for name, r := range map[string]*tree.Root{"in place": openRoot(t, src), "view": view} {
		var c collector
		var files []string
		err := r.Walk(t.Context(), tree.WalkOptions{Warn: c.warn}, func(e *tree.Entry) error {
			if e.Kind != tree.File || filepath.Base(e.Path) != "file" {
				return nil
			}
			files = append(files, strings.TrimSuffix(e.Path, "/"+deep+"file"))
			f, err := r.Open(e, c.warn)
			if err != nil {
				return err
			}
			defer f.Close()
			if same, err := r.Unchanged(e, f); !same || err != nil {
				t.Errorf("%s: %q: %v %v", name, e.Path, same, err)
			}
			content, err := io.ReadAll(f)
			if string(content) != files[len(files)-1] {
				t.Errorf("%s: %q holds %q", name, e.Path, content)
			}
			return err
		})
		if err != nil || strings.Join(files, " ") != "m/one m/one/in m/one-more z" {
			t.Errorf("%s: files of %q, %v", name, files, err)
		}
		for _, w := range c.list {
			if w.Lost || w.Path != ".holdfast-snapshots/hf.h.j.v" {
				t.Errorf("%s: %v", name, w)
			}
		}
	}
}

// TestVanishedIsAWarning removes names between the listing of their folder and their turn.
func TestVanishedIsAWarning(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "", "b", "", "c/d", "", "e", "")
	r := openRoot(t, dir)
	var c collector
	var seen []string
	err := r.Walk(t.Context(), tree.WalkOptions{Warn: c.warn}, func(e *tree.Entry) error {
		seen = append(seen, e.Path)
		if e.Path == "a" {
			return errors.Join(os.Remove(filepath.Join(dir, "b")), os.RemoveAll(filepath.Join(dir, "c")))
		}
		return nil
	})
	if err != nil || strings.Join(seen, " ") != " a e" || len(c.list) != 2 || c.list[0].Path != "b" || c.list[1].Path != "c" {
		t.Errorf("seen %q, warnings %v, error %v", seen, c.list, err)
	}
}

// TestWalkEnds checks how a callback and a context end a walk.
func TestWalkEnds(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "", "b", "")
	r := openRoot(t, dir)
	mine := fmt.Errorf("mine: %w", tree.ErrChanged)
	calls := 0
	err := r.Walk(t.Context(), tree.WalkOptions{}, func(e *tree.Entry) error {
		calls++
		if e.Path == "a" {
			return mine
		}
		return nil
	})
	if err != mine || calls != 2 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	cause := errors.New("drained")
	ctx, cancel := context.WithCancelCause(t.Context())
	err = r.Walk(ctx, tree.WalkOptions{}, func(*tree.Entry) error { cancel(cause); return nil })
	if !errors.Is(err, cause) {
		t.Errorf("cancelled walk: %v", err)
	}
}
