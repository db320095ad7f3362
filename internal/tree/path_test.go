package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

func TestComparePathsIsTheOrderOfAWalk(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b", "", "a/b.x", "", "a/c/d", "", "a.x", "", "a0", "", "a\x01", "", "ab/c", "", "b", "", "\xff", "")
	entries, _ := walk(t, dir)
	var paths []string
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	if !slices.IsSortedFunc(paths, tree.ComparePaths) {
		t.Errorf("not in order: %q", paths)
	}
	if got := strings.Join(paths[:5], " "); got != " a a/b a/b.x a/c" {
		t.Errorf("walk begins with %q", got)
	}
}

// FuzzCheckPath compares with filepath's judgement of the same bytes, and checks that
// no path that passes leaves the folder in which it is made.
func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"", "a", "a/b", "..", "a/..", "../a", ".", "a/./b", "/a", "a/", "a//b", "a\x00", "...", "..a/b..", strings.Repeat("n", 255), strings.Repeat("n", 256), "\xff/\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		err := tree.CheckPath(path)
		if err != nil && !errors.Is(err, tree.ErrUnsafePath) {
			t.Fatalf("%q: %v", path, err)
		}
		long := slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return len(s) > 255 })
		good := path == "" || filepath.IsLocal(path) && filepath.Clean(path) == path && path != "." && !strings.ContainsRune(path, 0) && !long
		if good != (err == nil) {
			t.Fatalf("%q: %v, want good: %v", path, err, good)
		}
		if err == nil && path != "" && (tree.ComparePaths("", path) >= 0 || tree.ComparePaths(path, path) != 0 || tree.ComparePaths(path, path+"/a") >= 0) {
			t.Fatalf("%q is out of order", path)
		}
	})
}

// FuzzTarget makes entries of any path, kind and link in a target,
// beside a folder that must stay as it is.
func FuzzTarget(f *testing.F) {
	f.Add("a", "a/b", "../victim/file", uint8(tree.Symlink), uint8(tree.File))
	f.Add("a", "a/new", "", uint8(tree.Dir), uint8(tree.File))
	f.Add("a", "b", "a", uint8(tree.File), uint8(tree.File))
	f.Add("a", "b", "../victim/file", uint8(tree.File), uint8(tree.Fifo))
	f.Fuzz(func(t *testing.T, first, second, to string, kind, kind2 uint8) {
		top := t.TempDir()
		dst := filepath.Join(top, "dst")
		write(t, top, "victim/file", "precious")
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		target, err := tree.NewTarget(dst, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		for i, e := range []*tree.Entry{
			{Path: first, Kind: tree.Kind(kind % 8), Target: to, Mode: 0o700},
			{Path: second, Kind: tree.Kind(kind2 % 8), LinkTo: to, HasLinkTo: len(to) > 0},
		} {
			if (i == 0 && kind%8 >= uint8(tree.CharDevice)) || (i == 1 && kind2%8 >= uint8(tree.CharDevice)) {
				continue // nothing to learn from devices
			}
			if f, err := target.Create(e); err == nil && f != nil {
				if err := target.FinishFile(e, f); err != nil && os.Geteuid() == 0 {
					t.Fatal(err)
				}
			}
		}
		names, err := os.ReadDir(top)
		if err != nil || len(names) != 2 {
			t.Fatalf("beside the target: %v %v", names, err)
		}
		names, err = os.ReadDir(filepath.Join(top, "victim"))
		if err != nil || len(names) != 1 {
			t.Fatalf("in the victim: %v %v", names, err)
		}
		if b, err := os.ReadFile(filepath.Join(top, "victim/file")); err != nil || string(b) != "precious" {
			t.Fatalf("the victim's file: %q %v", b, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(top, "victim/file"), &st); err != nil || st.Nlink != 1 {
			t.Fatalf("the victim's file has %d names: %v", st.Nlink, err)
		}
	})
}
