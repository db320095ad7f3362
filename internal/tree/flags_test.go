package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestFlagsNamed: every flag that an entry may have has a name, and no other.
func TestFlagsNamed(t *testing.T) {
	for bit := range 32 {
		f := tree.Flags(1) << bit
		if (f.String() != "") != (f&tree.AllFlags != 0) {
			t.Errorf("flag %#x is named %q", uint32(f), f)
		}
	}
	if got := (tree.Immutable | tree.NoCow).String(); got != "immutable (i), no copy on write (C)" {
		t.Error(got)
	}
}

// TestHostileFlags: forbidden flag bits of a recipe reach no file.
func TestHostileFlags(t *testing.T) {
	testbed.Need(t, "ext4", "lsattr")
	dst := filepath.Join(testbed.Ext4(t), "dst")
	if err := os.Mkdir(dst, 0o700); err != nil {
		t.Fatal(err)
	}
	var c collector
	target, err := tree.NewTarget(dst, c.warn)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	all := ^tree.Flags(0)
	for _, e := range []*tree.Entry{
		{Kind: tree.Dir, Mode: 0o755, Flags: all},
		{Path: "dir", Kind: tree.Dir, Mode: 0o755, Flags: all &^ tree.AllFlags},
		{Path: "fifo", Kind: tree.Fifo, Mode: 0o644, Flags: all, Project: 7},
		{Path: "file", Kind: tree.File, Mode: 0o644, Size: 10, Flags: all &^ tree.AllFlags},
		{Path: "other", Kind: tree.File, Mode: 0o644, Flags: all, Project: 1<<32 - 1},
	} {
		f, err := target.Create(e)
		if err == nil && f != nil {
			err = target.FinishFile(e, f)
		}
		if err != nil {
			t.Fatalf("%q: %v", e.Path, err)
		}
	}
	if err := errors.Join(target.Finish(), target.Seal()); err != nil {
		t.Fatal(err)
	}
	for name, hostile := range map[string]bool{"dir": true, "file": true, "other": false, "": false} {
		flags, _, _ := strings.Cut(tool(t, dst, "lsattr", "-d", filepath.Join(dst, name)), " ")
		flags = strings.ReplaceAll(flags, "-", "")
		if hostile && flags != "e" || !hostile && (strings.Trim(flags, "sucSiadAmjtDTCxPFe") != "" || !strings.HasPrefix(flags, "suS")) {
			t.Errorf("%q has %q", name, flags)
		}
	}
	if len(c.list) == 0 || !target.FlagsLost() {
		t.Errorf("nothing is told of what ext4 does not keep: %v", c.list)
	}
	if err := tree.Remove(dst); err != nil {
		t.Error(err)
	}
}

// TestRemove removes entries with flags that only root can set, and that keep even root
// from removing them.
func TestRemove(t *testing.T) {
	testbed.Need(t, "btrfs", "chattr")
	mount := testbed.Btrfs(t)
	dir := filepath.Join(mount, "dir")
	write(t, dir, "a/b/c", "", "a/d", "", "append/x", "", "free/y", "")
	makeDeep(t, filepath.Join(dir, "deep"), 100)
	tool(t, dir, "chattr", "-R", "+i", "a")
	tool(t, dir, "chattr", "-R", "+a", "append")
	tool(t, mount, "chattr", "+i", "dir")
	if err := os.RemoveAll(dir); !errors.Is(err, unix.EPERM) {
		t.Fatalf("without more ado: %v", err)
	}
	if err := tree.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := tree.Remove(dir); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

// TestFlagsOfOtherKernel copies a tree on ext4 with features that this host's kernel may
// lack (casefold, projects) on a kernel that has neither file_getattr nor listxattrat.
func TestFlagsOfOtherKernel(t *testing.T) {
	if !testbed.InMachine() {
		testbed.RunInMachine(t, testbed.MachineSpec{
			Tools: []string{"mkfs.ext4", "lsattr", "chattr", "mount", "find"},
			// ext4 counts projects with quota_v2.
			Modules: []string{"ext4", "quota_v2", "crc32c_generic"}, Disks: []string{testbed.Disk(t, 256<<20)},
		}, 10*time.Minute)
		return
	}
	const mount = "/disk" // which goes with the machine
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "/", "mkfs.ext4", "-q", "-F", "-O", "casefold,project,quota", "/dev/vda")
	tool(t, "/", "mount", "-t", "ext4", "-o", "prjquota", "/dev/vda", mount)
	src, dst := filepath.Join(mount, "src"), filepath.Join(mount, "dst")
	write(t, src, "plain", "p", "link/immutable", "i", "project/own", "")
	if err := os.Symlink("plain", filepath.Join(src, "symlink")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(src, "plain"), "trusted.t", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(src, "link/immutable"), filepath.Join(src, "zz")); err != nil {
		t.Fatal(err)
	}
	tool(t, src, "chattr", "+i", "link/immutable")
	for _, dir := range []string{"folded", "root"} {
		if err := os.Mkdir(filepath.Join(src, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		tool(t, src, "chattr", "+F", dir)
	}
	write(t, src, "folded/Name", "n", "folded/Below/Name", "n")
	if err := os.Mkdir(filepath.Join(src, "folded", "not"), 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, src, "chattr", "-F", "folded/not")
	write(t, src, "folded/not/a", "", "folded/not/A", "")
	tool(t, src, "chattr", "-p", "77", "project")
	tool(t, src, "chattr", "+P", "project")
	write(t, src, "project/file", "f", "project/sub/file", "f")
	tool(t, src, "chattr", "-p", "4294967294", "project/own")

	if w := copyTree(t, src, dst); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	flags := func(dir string) string {
		lines := strings.Split(tool(t, dir, "lsattr", "-aRp", "."), "\n")
		slices.Sort(lines)
		return strings.Join(slices.Compact(lines), "\n")
	}
	if a, b := flags(src), flags(dst); a != b || !strings.Contains(a, "F---- ./folded/Below") || !strings.Contains(a, "   77 ") || !strings.Contains(a, "4294967294 ") {
		t.Errorf("flags and projects:\n%s\n%s", a, b)
	}
	if _, err := os.Stat(filepath.Join(dst, "folded/below/NAME")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dst, "folded/not/A")); err != nil {
		t.Error(err)
	}
}
