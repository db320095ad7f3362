package tree_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestInvariantRestoreExact copies a tree of every case on each file system and compares with tools
// that are not ours.
func TestInvariantRestoreExact(t *testing.T) {
	for _, c := range []struct {
		name  string
		mount func(testing.TB) string
	}{{"ext4", testbed.Ext4}, {"btrfs", testbed.Btrfs}, {"xfs", testbed.Xfs}} {
		t.Run(c.name, func(t *testing.T) {
			testbed.Need(t, "root", c.name, "rsync", "getfattr", "setfacl", "filefrag", "find")
			mount := c.mount(t)
			src, dst := filepath.Join(mount, "src"), filepath.Join(mount, "dst")
			makeEverything(t, src)
			deep := filepath.Join(mount, "deep")
			makeDeep(t, deep, 400)

			if w := copyTree(t, src, dst); len(w) > 0 {
				t.Errorf("warnings: %v", w)
			}
			compare(t, src, dst)
			compareHoles(t, src, dst)

			if w := copyTree(t, deep, deep+".copy"); len(w) > 0 {
				t.Errorf("warnings: %v", w)
			}
			if a, b := deepTar(t, deep), deepTar(t, deep+".copy"); !bytes.Equal(a, b) {
				t.Error("the trees beyond PATH_MAX differ")
			}
		})
	}
}

// compare lets rsync, getfattr and find say what differs.
func compare(t *testing.T, src, dst string) {
	t.Helper()
	// A hole of 1 TiB takes rsync an hour to read.
	if out := tool(t, "/", "rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes",
		"--exclude=/holes/tebi", src+"/", dst+"/"); out != "" {
		t.Errorf("rsync finds differences:\n%s", out)
	}
	for _, cmd := range [][]string{
		{"sh", "-c", `find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m- -e hex --absolute-names`},
		{"sh", "-c", `find . -printf '%P|%y|%m|%U|%G|%T@|%l|%n|%f\0' | LC_ALL=C sort -z`},
		{"sh", "-c", `find . ! -type d -printf '%P|%s\0' | LC_ALL=C sort -z`},
		{"sh", "-c", `find . -type c -o -type b -exec stat -c '%n %t %T %F' {} + | LC_ALL=C sort`},
		{"sh", "-c", `find . -type f -links +1 -printf '%i %P\0' | LC_ALL=C sort -z -k2 | tr '\0' '\n' | awk '{ if (!($1 in n)) n[$1]=++c; $1=n[$1]; print }'`},
	} {
		a, b := tool(t, src, cmd...), tool(t, dst, cmd...)
		if a != b {
			t.Errorf("%s differs:\n%s", cmd[2], firstDifference(a, b))
		}
		if a == "" {
			t.Errorf("%s prints nothing", cmd[2])
		}
	}
}

// compareHoles looks that the extents of sparse files begin and end at the same places.
func compareHoles(t *testing.T, src, dst string) {
	t.Helper()
	for _, name := range []string{"all", "ends", "tebi", "middle", "tail"} {
		a, b := filepath.Join(src, "holes", name), filepath.Join(dst, "holes", name)
		var x, y unix.Stat_t
		if err := unix.Lstat(a, &x); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lstat(b, &y); err != nil {
			t.Fatal(err)
		}
		if x.Size != y.Size || y.Blocks > x.Blocks {
			t.Errorf("%s: size %d and %d, blocks %d and %d", name, x.Size, y.Size, x.Blocks, y.Blocks)
		}
		if m, n := extents(t, a), extents(t, b); m != n || (m == "") != (name == "all") {
			t.Errorf("%s: extents differ:\n%s\n%s", name, m, n)
		}
	}
	// Both ends of the largest hole.
	f, err := os.Open(filepath.Join(dst, "holes", "tebi"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, want := range map[int64]string{0: "begin", 1<<40 - 3: "end"} {
		buf := make([]byte, len(want))
		if _, err := f.ReadAt(buf, off); err != nil || string(buf) != want {
			t.Errorf("at %d: %q %v", off, buf, err)
		}
	}
}

// extents gives the runs of data that filefrag finds, neighbours joined.
func extents(t *testing.T, path string) string {
	t.Helper()
	var runs []string
	var from, to int
	flush := func() {
		if to > from {
			runs = append(runs, fmt.Sprintf("%d-%d", from, to))
		}
	}
	for line := range strings.Lines(tool(t, "/", "filefrag", "-b4096", "-s", "-v", path)) {
		var n, a, b int
		if c, _ := fmt.Sscanf(line, "%d: %d.. %d:", &n, &a, &b); c != 3 {
			continue
		}
		if a != to {
			flush()
			from = a
		}
		to = b + 1
	}
	flush()
	return strings.Join(runs, " ")
}

func tool(t *testing.T, dir string, cmd ...string) string {
	t.Helper()
	path, err := testbed.Program(cmd[0])
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, cmd[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd, " "), err, out)
	}
	return string(out)
}

func firstDifference(a, b string) string {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	from := max(0, n-100)
	return fmt.Sprintf("%q\n%q", a[from:min(len(a), n+200)], b[from:min(len(b), n+200)])
}

// makeEverything makes one of each thing that a file system can hold.
func makeEverything(t *testing.T, src string) {
	write(t, src, "plain", "content", "empty", "", "a/b/c/d", "deeper", "private/key", "secret", "a.x", "sorts between", "names/\n\x1b[31m", "escape",
		"names/\xff\xfe\x80", "no text", "names/"+strings.Repeat("n", 255), "long", "names/ ", "blank", "names/-rf", "", "names/*", "",
		"links/one", "linked", "times/past", "", "times/epoch", "", "times/edge", "", "times/future", "",
		"mode/suid", "s", "mode/sgid", "s", "mode/none", "n", "mode/all", "a", "owner/big", "o", "owner/other", "o",
		"attrs/user", "u", "attrs/cap", "c", "attrs/large", "l", "attrs/acl", "x", "attrs/selinux", "s", "attrs/dir/in", "i")
	at := func(name string) string { return filepath.Join(src, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Link(at("links/one"), at("a/two")))
	must(os.Link(at("links/one"), at("zz")))
	must(os.Symlink("../plain", at("a/link")))
	must(os.Symlink("/nowhere/\xff", at("a/dangling")))
	must(os.Symlink(strings.Repeat("x/", 500)+"end", at("a/longlink")))
	must(os.Link(at("a/link"), at("links/symlink")))
	must(unix.Mkfifo(at("fifo"), 0o640))
	must(os.Link(at("fifo"), at("fifo2")))
	must(unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(at("whiteout"), unix.S_IFCHR, 0))
	must(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(500, 1<<17))))
	must(os.Mkdir(at("emptydir"), 0o111))
	must(unix.Mkdir(at("sticky"), 0))
	must(unix.Chmod(at("sticky"), 0o7777))

	must(os.Chown(at("owner/big"), 3_000_000_000, 4_294_967_293))
	must(os.Chown(at("owner/other"), 1000, 1001))
	must(os.Lchown(at("a/link"), 12, 34))
	must(os.Chown(at("mode/suid"), 1000, 1000))
	must(os.Chown(at("mode/sgid"), 1000, 1000))
	must(unix.Chmod(at("mode/suid"), 0o4755))
	must(unix.Chmod(at("mode/sgid"), 0o2711))
	must(unix.Chmod(at("mode/none"), 0))
	must(unix.Chmod(at("mode/all"), 0o7777))
	must(unix.Chmod(at("private"), 0o500))

	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, x := range []struct {
		path, name string
		value      []byte
	}{
		{"attrs/user", "user.empty", nil},
		{"attrs/user", "user.bytes", []byte("\x00\xff\n")},
		{"attrs/user", "user." + strings.Repeat("n", 200), []byte("v")},
		{"attrs/large", "user.large", bytes.Repeat([]byte("l"), 3000)},
		{"attrs/cap", "security.capability", capability},
		{"mode/suid", "security.capability", capability},
		{"attrs/selinux", "security.selinux", []byte("u:object_r:app_data_file:s0\x00")},
		{"attrs/dir", "security.selinux", []byte("u:object_r:system_data_file:s0\x00")},
		{"attrs/dir", "trusted.overlay.opaque", []byte("y")},
		{"attrs/dir", "user.dir", []byte("d")},
		{"a/link", "trusted.link", []byte("l")},
		{"a/link", "security.selinux", []byte("link\x00")},
		{"fifo", "trusted.fifo", []byte("f")},
		{"null", "trusted.device", []byte("d")},
		{"mode/none", "user.unreadable", []byte("1")},
		{".", "user.root", []byte("r")},
	} {
		must(unix.Lsetxattr(at(x.path), x.name, x.value, 0))
	}
	tool(t, src, "setfacl", "-m", "u:1234:rw,g:99:r", "attrs/acl")
	tool(t, src, "setfacl", "-m", "u:1234:rwx", "-m", "d:u:77:rwx,d:g:88:r-x", "attrs/dir")
	tool(t, src, "setfacl", "-m", "d:u:55:rwx", ".")

	makeHoles(t, filepath.Join(src, "holes"))
	for name, sec := range map[string]int64{"past": -5, "epoch": 0, "edge": -1 << 31, "future": 1<<32 + 86400} {
		setTime(t, at("times/"+name), sec, 123_456_789)
	}
	setTime(t, at("a/link"), 1, 1)
	setTime(t, at("fifo"), 2, 2)
	setTime(t, at("a/b"), 3, 999_999_999)
	setTime(t, src, 4, 4)
}

func setTime(t *testing.T, path string, sec, nsec int64) {
	t.Helper()
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

func makeHoles(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat("data", 64<<10/4)
	for name, data := range map[string]map[int64]string{
		"all":    nil,
		"ends":   {0: block, 40<<20 - 64<<10: block},
		"tebi":   {0: "begin", 1<<40 - 3: "end"},
		"middle": {8 << 20: block, 20 << 20: block, 20<<20 + 128<<10: block},
		"tail":   {0: block},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for off, s := range data {
			if _, err := f.WriteAt([]byte(s), off); err != nil {
				t.Fatal(err)
			}
		}
		if name == "all" || name == "tail" {
			if err := f.Truncate(40 << 20); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// makeDeep makes levels folders inside each other, whose path is far beyond PATH_MAX, each with a
// file that comes before the next folder and one that comes after it.
func makeDeep(t *testing.T, dir string, levels int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := "m" + strings.Repeat("d", 100)
	for i := range levels {
		for _, n := range []string{"a", "z"} {
			f, err := unix.Openat(fd, n, unix.O_WRONLY|unix.O_CREAT, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(f, fmt.Appendf(nil, "%s at %d", n, i)); err != nil {
				t.Fatal(err)
			}
			unix.Close(f)
		}
		if err := unix.Mkdirat(fd, name, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

// deepTar lets tar, which knows no limit of depth, turn a tree into bytes.
func deepTar(t *testing.T, dir string) []byte {
	t.Helper()
	out, err := exec.Command("tar", "-C", dir, "--format=posix", "--pax-option=exthdr.name=x,delete=atime,delete=ctime", "--sort=name", "-c", ".").Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	return out
}
