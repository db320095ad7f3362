package tree_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestErrorsOfOurOwn: no error of this process's own is taken for a
// fact about an entry, however it is wrapped.
func TestErrorsOfOurOwn(t *testing.T) {
	for _, err := range []error{
		unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EDQUOT, unix.EBADF, unix.EFAULT, unix.ENOSYS,
		context.Canceled, context.DeadlineExceeded, os.ErrClosed, tree.ErrClosed, tree.ErrNoProc,
		&tree.PathError{Op: "stat", Path: "a", Err: unix.EMFILE}, &os.PathError{Op: "read", Path: "a", Err: unix.ENOMEM},
	} {
		if !tree.Ours(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v counts as the entry's", err)
		}
	}
	for _, err := range []error{
		nil, unix.EACCES, unix.EPERM, unix.EIO, unix.ENOTCONN, unix.ESTALE, unix.EUCLEAN, unix.ELOOP, unix.E2BIG, unix.ENODATA, unix.ERANGE,
		unix.ENOENT, unix.ENOTDIR, unix.ENOKEY, unix.EREMOTEIO, unix.ENXIO, unix.ENODEV, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EOVERFLOW,
		unix.EINVAL, unix.ENAMETOOLONG, unix.EAGAIN, syscall.EBADMSG, unix.ENOTSUP, tree.ErrChanged, tree.ErrVanished, os.ErrNotExist,
		&tree.PathError{Op: "stat", Path: "a", Err: unix.EIO},
	} {
		if tree.Ours(err) {
			t.Errorf("%v counts as one of this process", err)
		}
	}
}

// oddTree is a FUSE with a tree in which "odd" names are at fault in some tests.
func oddTree(t *testing.T) *testbed.FUSE {
	f := testbed.StartFUSE(t)
	write(t, f.Folder, "a/f", "1", "odd/f", "2", "odd/sub/g", "3", "oddfile", "4", "z/f", "5")
	if err := os.Symlink("target", filepath.Join(f.Folder, "oddlink")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"odd", "oddfile", "z"} {
		for _, attr := range []string{"user.a", "user.b"} {
			if err := unix.Setxattr(filepath.Join(f.Folder, name), attr, []byte(attr), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

// TestBadEntryDoesNotStopTheWalk lets each operation on one entry
// fail in many ways. All else is given, and the entry is named once.
func TestBadEntryDoesNotStopTheWalk(t *testing.T) {
	f := oddTree(t)
	all := []string{"", "a", "a/f", "odd", "odd/f", "odd/sub", "odd/sub/g", "oddfile", "oddlink", "z", "z/f"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return s == name || name == "odd/" && strings.HasPrefix(s, "odd/") })
		})
	}
	errnos := []syscall.Errno{unix.EACCES, unix.EPERM, unix.EIO, unix.ENOTCONN, unix.ESTALE, unix.EUCLEAN, unix.ETIMEDOUT, unix.EREMOTEIO, unix.ENOKEY, unix.E2BIG, unix.ENODATA, unix.EOVERFLOW}
	for _, c := range []struct {
		op     testbed.FUSEOp
		path   string
		want   []string
		attrs  int // that the entry has all the same; -1: it is not there
		errnos []syscall.Errno
	}{
		{testbed.FUSELookup, "oddfile", without("oddfile"), -1, append(errnos, unix.ELOOP, unix.ENOTDIR, unix.EXDEV, unix.EINVAL)},
		{testbed.FUSELookup, "odd", without("odd", "odd/"), -1, append(errnos, unix.ELOOP)},
		{testbed.FUSEOpenFolder, "odd", without("odd/"), 2, errnos},
		{testbed.FUSEReadFolder, "odd", without("odd/"), 2, errnos},
		{testbed.FUSEReadlink, "oddlink", without("oddlink"), -1, errnos},
		{testbed.FUSEListXattr, "oddfile", all, 0, append(errnos, unix.EINVAL, unix.ELOOP)},
		{testbed.FUSEListXattr, "odd", all, 0, append(errnos, unix.EINVAL)},
		{testbed.FUSEListXattr, "oddfile", all, 0, []syscall.Errno{unix.ERANGE}},
		{testbed.FUSEGetXattr, "oddfile", all, 0, []syscall.Errno{unix.EIO, unix.ERANGE}},
	} {
		for _, errno := range c.errnos {
			t.Run(fmt.Sprintf("%s of %s, %s", c.op, c.path, unix.ErrnoName(errno)), func(t *testing.T) {
				f.Set(testbed.FUSERefuses(errno, c.op).At(c.path))
				entries, losses := walk(t, f.Point)
				if got := paths(entries); !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
				says := errno
				// that is how the kernel says it where no buffer is large enough
				if errno == unix.ERANGE {
					says = unix.E2BIG
				}
				if len(losses) != 1 || losses[0].Path != c.path || !losses[0].Lost || !strings.Contains(losses[0].What, says.Error()) {
					t.Errorf("losses %v, want one at %s that says %v", losses, c.path, says)
				}
				if i := slices.IndexFunc(entries, func(e *tree.Entry) bool { return e.Path == c.path }); i >= 0 {
					if len(entries[i].Xattrs) != c.attrs {
						t.Errorf("attributes %v, want %d", entries[i].Xattrs, c.attrs)
					}
				} else if c.attrs >= 0 {
					t.Error("the entry is left out")
				}
			})
		}
		for _, errno := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
			f.Set(testbed.FUSERefuses(errno, c.op).At(c.path))
			err := openRoot(t, f.Point).Walk(t.Context(), tree.WalkOptions{}, func(*tree.Entry) error { return nil })
			if !errors.Is(err, errno) || !tree.Ours(err) {
				t.Errorf("%s of %s, %v: the walk ended with %v", c.op, c.path, errno, err)
			}
		}
	}
}

// TestOneAttributeIsLost: an attribute that can't be read costs neither the others nor
// the entry. An attribute that is listed but absent is no loss.
func TestOneAttributeIsLost(t *testing.T) {
	f := oddTree(t)
	for _, c := range []struct {
		errno  syscall.Errno
		losses int
	}{{unix.EIO, 1}, {unix.EACCES, 1}, {unix.E2BIG, 1}, {unix.ENODATA, 0}, {unix.EOPNOTSUPP, 0}} {
		var asked atomic.Int32
		f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, path string) syscall.Errno {
			// Of the two attributes, every second question is for the second.
			if op == testbed.FUSEGetXattr && path == "oddfile" && asked.Add(1)%2 == 0 {
				return c.errno
			}
			return 0
		}})
		entries, losses := walk(t, f.Point)
		e := entries[slices.Index(paths(entries), "oddfile")]
		if len(e.Xattrs) != 1 || e.Xattrs[0].Name != "user.a" {
			t.Errorf("%v: attributes %v", c.errno, e.Xattrs)
		}
		if len(losses) != c.losses || len(losses) > 0 && !strings.Contains(losses[0].What, "user.b") {
			t.Errorf("%v: losses %v", c.errno, losses)
		}
	}
}

// TestAttributeGoneMeanwhileIsNoLoss: if an attribute is removed between list and read,
// the walk reads all attributes again, with any new attribute in its place.
func TestAttributeGoneMeanwhileIsNoLoss(t *testing.T) {
	f := oddTree(t)
	var once atomic.Bool
	f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, path string) syscall.Errno {
		if op == testbed.FUSEGetXattr && path == "oddfile" && !once.Swap(true) {
			path := filepath.Join(f.Folder, "oddfile")
			if err := errors.Join(unix.Removexattr(path, "user.a"), unix.Setxattr(path, "user.c", []byte("c"), 0)); err != nil {
				t.Error(err)
			}
			return unix.ENODATA
		}
		return 0
	}})
	entries, losses := walk(t, f.Point)
	e := entries[slices.Index(paths(entries), "oddfile")]
	if len(losses) != 0 || len(e.Xattrs) != 2 || e.Xattrs[0].Name != "user.b" || e.Xattrs[1].Name != "user.c" {
		t.Errorf("attributes %v, losses %v", e.Xattrs, losses)
	}
}

// TestFolderListedInPart: the names that were listed before the error stay.
func TestFolderListedInPart(t *testing.T) {
	f := testbed.StartFUSE(t)
	for i := range 40 {
		write(t, f.Folder, fmt.Sprintf("d/%s%d", strings.Repeat("n", 200), i), "")
	}
	write(t, f.Folder, "z", "")
	var listed atomic.Int32
	f.Set(testbed.Oddity{Fail: func(op testbed.FUSEOp, path string) syscall.Errno {
		if op == testbed.FUSEReadFolder && path == "d" && listed.Add(1) > 30 {
			return unix.EIO
		}
		return 0
	}})
	entries, losses := walk(t, f.Point)
	got := paths(entries)
	if len(got) < 3+10 || len(got) >= 3+40 || got[len(got)-1] != "z" {
		t.Errorf("%d entries", len(got))
	}
	if len(losses) != 1 || losses[0].Path != "d" || !strings.Contains(losses[0].What, "listed to its end") {
		t.Errorf("losses %v", losses)
	}
}

// TestRootThatCannotBeReadFails: with nothing of it there is no backup, and with a part there is.
func TestRootThatCannotBeReadFails(t *testing.T) {
	f := oddTree(t)
	for _, op := range []testbed.FUSEOp{testbed.FUSEOpenFolder, testbed.FUSEReadFolder} {
		f.Set()
		r := openRoot(t, f.Point)
		f.Set(testbed.FUSERefuses(unix.EIO, op).At("."))
		err := r.Walk(t.Context(), tree.WalkOptions{}, func(*tree.Entry) error { return nil })
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", op, err)
		}
	}
	f.Set(testbed.FUSERefuses(unix.EIO, testbed.FUSEListXattr).At("."))
	entries, losses := walk(t, f.Point)
	if len(entries) != 11 || len(losses) != 1 || losses[0].Path != "" {
		t.Errorf("%d entries, losses %v", len(entries), losses)
	}
}

// TestMountOfAnotherUser: a mount that only its owner may read, and a dead mount, are
// one loss each, or none where it is excluded.
func TestMountOfAnotherUser(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "", "home/.gvfs/x", "", "home/.dead/x", "", "home/f", "", "z", "")
	testbed.StrangersFUSE(t, filepath.Join(dir, "home/.gvfs"), nobody)
	testbed.StrangersFUSE(t, filepath.Join(dir, "home/.dead"), 0)()
	entries, losses := walk(t, dir)
	if got := paths(entries); !slices.Equal(got, []string{"", "a", "home", "home/.dead", "home/f", "z"}) {
		t.Errorf("got %q", got)
	}
	for i, reason := range []string{"", unix.EACCES.Error()} { // the dead one is not asked
		if len(losses) != 2 || !strings.Contains(losses[i].What, reason) || !strings.Contains(losses[i].What, "another file system is mounted") {
			t.Fatalf("losses %v", losses)
		}
	}
	r := openRoot(t, dir)
	exclude := func(path string, folder func() bool) bool {
		return strings.HasPrefix(filepath.Base(path), ".") && folder()
	}
	err := r.Walk(t.Context(), tree.WalkOptions{Exclude: exclude, Warn: func(w tree.Warning) { t.Error(w) }}, func(*tree.Entry) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

// TestAttributesBeyondTheList: XFS keeps more names of attributes than the kernel
// lists. The entry stays, with the attributes that control access.
func TestAttributesBeyondTheList(t *testing.T) {
	dir := testbed.Xfs(t)
	write(t, dir, "a", "", "many", "content", "manydir/f", "", "z", "")
	tool(t, dir, "setfacl", "-m", "u:1234:rw", "many")
	tool(t, dir, "setfacl", "-m", "d:u:1234:rwx", "manydir")
	for _, name := range []string{"many", "manydir"} {
		for i := range 400 {
			if err := unix.Setxattr(filepath.Join(dir, name), fmt.Sprintf("user.%s%d", strings.Repeat("n", 200), i), []byte("v"), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, losses := walk(t, dir)
	if got := paths(entries); !slices.Equal(got, []string{"", "a", "many", "manydir", "manydir/f", "z"}) {
		t.Fatalf("got %q", got)
	}
	for i, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if x := entries[2+i].Xattrs; len(x) != 1 || x[0].Name != name {
			t.Errorf("%s has the attributes %v, want %s", entries[2+i].Path, x, name)
		}
	}
	if len(losses) != 2 || losses[0].Path != "many" || losses[1].Path != "manydir" || !strings.Contains(losses[0].What, "argument list too long") {
		t.Errorf("losses %v", losses)
	}
}

// TestVanishedNames: a name that is gone when the walk comes to it is told with its inode number.
func TestVanishedNames(t *testing.T) {
	dir := testbed.Ext4(t)
	write(t, dir, "a", "", "b", "", "c/d/e", "", "c/d/f", "", "c/g", "", "z", "")
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "y")); err != nil {
		t.Fatal(err)
	}
	before, _ := walk(t, dir)
	inos := map[string]uint64{}
	for _, e := range before {
		inos[e.Path] = e.Ino
	}
	got := map[string]uint64{}
	var losses collector
	err := openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{
		Warn: losses.warn, Vanished: func(path string, ino uint64) { got[path] = ino },
	}, func(e *tree.Entry) error {
		switch e.Path {
		case "a":
			return errors.Join(os.Remove(filepath.Join(dir, "b")), os.Remove(filepath.Join(dir, "y")))
		case "c":
			return os.RemoveAll(filepath.Join(dir, "c"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"b": inos["b"], "c/d": inos["c/d"], "c/g": inos["c/g"]}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("vanished: %v, want %v", got, want)
	}
	if len(losses.list) != 1 || losses.list[0].Path != "y" || losses.list[0].Lost {
		t.Errorf("warnings %v, want that y is another name of a file that is there", losses.list)
	}
}

// TestExcludedEntries: the walk neither gives nor reads excluded entries, and the first
// name of a file is the first that is not excluded.
func TestExcludedEntries(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/first", "x", "b/second", "y", "b/sub/f", "", "c", "")
	if err := os.Link(filepath.Join(dir, "a/first"), filepath.Join(dir, "b/third")); err != nil {
		t.Fatal(err)
	}
	var asked []string
	exclude := func(path string, folder func() bool) bool {
		asked = append(asked, path)
		return path == "a/first" || path == "b/sub" && folder() || path == "c" && folder()
	}
	var got []*tree.Entry
	err := openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{Exclude: exclude}, func(e *tree.Entry) error {
		got = append(got, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := paths(got); !slices.Equal(p, []string{"", "a", "b", "b/second", "b/third", "c"}) || got[4].HasLinkTo {
		t.Errorf("got %q, the link %+v", p, got[4])
	}
	if !slices.Equal(asked, []string{"a", "a/first", "b", "b/second", "b/sub", "b/third", "c"}) {
		t.Errorf("asked for %q", asked)
	}
}

// TestExcludedCaches: of a folder with a tag of the standard the tag stays and nothing
// else; a file that only looks like a tag marks nothing.
func TestExcludedCaches(t *testing.T) {
	const tag = "Signature: 8a477f597d28d172789f06886806bc55"
	dir := t.TempDir()
	write(t, dir, "CACHEDIR.TAG", tag, "cache/CACHEDIR.TAG", tag+"\n# a comment", "cache/big", "", "cache/a/b", "",
		"empty/CACHEDIR.TAG", "", "empty/f", "", "other/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc56", "other/f", "",
		"short/CACHEDIR.TAG", tag[:20], "short/f", "", "folder/CACHEDIR.TAG/x", "", "link/f", "", "pipe/f", "")
	err := errors.Join(os.Symlink("../cache/CACHEDIR.TAG", filepath.Join(dir, "link/CACHEDIR.TAG")), unix.Mkfifo(filepath.Join(dir, "pipe/CACHEDIR.TAG"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var c collector
	var got []*tree.Entry
	err = openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{ExcludeCaches: true, Warn: c.warn}, func(e *tree.Entry) error {
		got = append(got, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all, _ := walk(t, dir)
	want := slices.DeleteFunc(paths(all), func(p string) bool { return strings.HasPrefix(p, "cache/") && p != "cache/CACHEDIR.TAG" })
	if p := paths(got); !slices.Equal(p, want) || len(all) != len(want)+3 {
		t.Errorf("got %q, want %q", p, want)
	}
	if len(c.list) != 1 || c.list[0].Path != "" || c.list[0].Lost {
		t.Errorf("warnings %v, want one for the root", c.list)
	}
}

// TestChangingNumbers: a file system that tells another inode
// number at every look is walked like any other.
func TestChangingNumbers(t *testing.T) {
	f := oddTree(t)
	f.Set(testbed.FUSENumbersChange())
	entries, warnings := walk(t, f.Point)
	if len(entries) != 11 || len(warnings) != 0 {
		t.Errorf("got %q, warnings %v", paths(entries), warnings)
	}
}

// TestSilentMount: a file system that is mounted in the tree and
// never answers is a loss and does not hold up the walk.
func TestSilentMount(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "", "with space/silent\\ mount/x", "", "z", "")
	point := filepath.Join(dir, "with space", "silent\\ mount")
	die := testbed.StrangersFUSE(t, point, 0)
	rescue := time.AfterFunc(time.Minute, func() {
		t.Error("the walk waits for a file system that does not answer")
		die()
	})
	defer rescue.Stop()
	entries, losses := walk(t, dir)
	if got := paths(entries); !slices.Equal(got, []string{"", "a", "with space", "with space/silent\\ mount", "z"}) {
		t.Errorf("got %q", got)
	}
	if len(losses) != 1 || losses[0].Path != "with space/silent\\ mount" || !losses[0].Lost {
		t.Errorf("losses %v", losses)
	}
}
