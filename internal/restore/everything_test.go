package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// makeEverything makes one of each thing that a file system can hold.
func makeEverything(t *testing.T, src, kind string) {
	t.Helper()
	writeFiles(t, src, "plain", "content", "empty", "", "a/b/c/d", "deeper", "private/key", "secret", "a.x", "sorts between", "names/\n\x1b[31m", "escape",
		"names/\xff\xfe\x80", "no text", "names/"+strings.Repeat("n", 255), "long", "names/ ", "blank", "names/-rf", "", "names/*", "",
		"links/one", "linked", "times/past", "", "times/epoch", "", "times/edge", "", "times/future", "",
		"mode/suid", "s", "mode/sgid", "s", "mode/none", "n", "mode/all", "a", "owner/big", "o", "owner/other", "o",
		"attrs/user", "u", "attrs/cap", "c", "attrs/large", "l", "attrs/acl", "x", "attrs/selinux", "s", "attrs/dir/in", "i")
	at := func(name string) string { return filepath.Join(src, name) }
	must(t, os.Link(at("links/one"), at("a/two")))
	must(t, os.Link(at("links/one"), at("zz")))
	must(t, os.Symlink("../plain", at("a/link")))
	must(t, os.Symlink("/nowhere/\xff", at("a/dangling")))
	must(t, os.Symlink(strings.Repeat("x/", 500)+"end", at("a/longlink")))
	must(t, os.Link(at("a/link"), at("links/symlink")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, os.Link(at("fifo"), at("fifo2")))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("whiteout"), unix.S_IFCHR, 0))
	must(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(500, 1<<17))))
	must(t, os.Mkdir(at("emptydir"), 0o111))
	must(t, os.Mkdir(at("mnt"), 0o755))
	must(t, unix.Mkdir(at("sticky"), 0))
	must(t, unix.Chmod(at("sticky"), 0o7777))

	must(t, os.Chown(at("owner/big"), 3_000_000_000, 4_294_967_293))
	must(t, os.Chown(at("owner/other"), 1000, 1001))
	must(t, os.Lchown(at("a/link"), 12, 34))
	must(t, os.Chown(at("mode/suid"), 1000, 1000))
	must(t, os.Chown(at("mode/sgid"), 1000, 1000))
	must(t, unix.Chmod(at("mode/suid"), 0o4755))
	must(t, unix.Chmod(at("mode/sgid"), 0o2711))
	must(t, unix.Chmod(at("mode/none"), 0))
	must(t, unix.Chmod(at("mode/all"), 0o7777))
	must(t, unix.Chmod(at("private"), 0o500))

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
		{"whiteout", "trusted.overlay.origin", []byte{0, 0xfb}},
		{"a/b", "trusted.overlay.redirect", []byte("/elsewhere")},
		{".", "user.root", []byte("r")},
	} {
		must(t, unix.Lsetxattr(at(x.path), x.name, x.value, 0))
	}
	tool(t, src, "setfacl", "-m", "u:1234:rw,g:99:r", "attrs/acl")
	tool(t, src, "setfacl", "-m", "u:1234:rwx", "-m", "d:u:77:rwx,d:g:88:r-x", "attrs/dir")
	tool(t, src, "setfacl", "-m", "d:u:55:rwx", ".")

	makeFlags(t, src, kind)
	makeHoles(t, filepath.Join(src, "holes"))
	for name, sec := range map[string]int64{"past": -5, "epoch": 0, "edge": -1 << 31, "future": 1<<32 + 86400} {
		setTime(t, at("times/"+name), sec, 123_456_789)
	}
	setTime(t, at("mnt"), 7, 7)
	setTime(t, at("a/link"), 1, 1)
	setTime(t, at("fifo"), 2, 2)
	setTime(t, at("a/b"), 3, 999_999_999)
	setTime(t, src, 4, 4)
}

// flagsOf are the flags of chattr(1) that each file system lets be set on files, and on
// folders. (Not j, for which ext4 wants a privilege that root in a container lacks.)
var flagsOf = map[string][2]string{
	"ext4":  {"s u c S i a d A t", "s u c S i a d A t D T"},
	"btrfs": {"c S i a d A C", "c S i a d A C D"},
	"xfs":   {"S i a d A x", "S i a d A x P"},
}

// makeFlags makes a file and a folder with each flag of the file
// system, and projects where it counts them.
func makeFlags(t *testing.T, src, kind string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(src, "flags", name) }
	chattr := func(flag, name string) {
		t.Helper()
		tool(t, "/", "chattr", "+"+flag, at(name))
	}
	late := []string{}
	for flag := range strings.FieldsSeq(flagsOf[kind][0]) {
		name := "file " + flag
		writeFiles(t, src, "flags/"+name, "")
		if flag == "i" || flag == "a" {
			// Its second name comes when it has the flag already.
			must(t, os.MkdirAll(at("later"), 0o755))
			must(t, os.Link(at(name), at("later/"+name)))
			late = append(late, flag, name)
		} else {
			chattr(flag, name) // nocow is for empty files
		}
		must(t, os.WriteFile(at(name), bytes.Repeat([]byte(name), 10_000), 0o644))
	}
	for flag := range strings.FieldsSeq(flagsOf[kind][1]) {
		name := "folder " + flag
		writeFiles(t, src, "flags/"+name+"/a", "before", "flags/"+name+"/b/c", "")
		if flag == "i" || flag == "a" {
			late = append(late, flag, name, flag, name+"/b")
		} else {
			chattr(flag, name)
			writeFiles(t, src, "flags/"+name+"/inherits", strings.Repeat("c", 100_000))
			must(t, os.Mkdir(at(name+"/inherits too"), 0o755))
		}
	}
	if kind == "btrfs" {
		writeFiles(t, src, "flags/zstd", "")
		tool(t, "/", "setfattr", "-n", "btrfs.compression", "-v", "zstd", at("zstd"))
		must(t, os.WriteFile(at("zstd"), bytes.Repeat([]byte("z"), 300_000), 0o600))
	}
	if kind == "xfs" {
		// A file that inherits its project, a file that
		// was there before, and a file of another project.
		writeFiles(t, src, "flags/project/before", "", "flags/other", "o")
		tool(t, "/", "chattr", "-p", "4294967294", at("other"))
		must(t, os.Link(at("other"), at("project/other")))
		tool(t, "/", "chattr", "-p", "4242", at("project"))
		chattr("P", "project")
		writeFiles(t, src, "flags/project/file", "p", "flags/project/sub/file", "p")
		must(t, os.Symlink("file", at("project/link")))
		must(t, unix.Mkfifo(at("project/fifo"), 0o600))
		must(t, unix.Mknod(at("project/socket"), unix.S_IFSOCK|0o600, 0))
		must(t, unix.Mknod(at("project/device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	for i := len(late) - 2; i >= 0; i -= 2 { // the entries of a folder before the folder
		chattr(late[i], late[i+1])
	}
}

func setTime(t *testing.T, path string, sec, nsec int64) {
	t.Helper()
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
}

func makeHoles(t *testing.T, dir string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	block := strings.Repeat("data", 64<<10/4)
	for name, data := range map[string]map[int64]string{
		"all":     nil,
		"alltebi": nil,
		"ends":    {0: block, 40<<20 - 64<<10: block},
		"tebi":    {0: "begin", 1<<40 - 3: "end"},
		"middle":  {8 << 20: block, 20 << 20: block, 20<<20 + 128<<10: block},
		"tail":    {0: block},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		for off, s := range data {
			_, err := f.WriteAt([]byte(s), off)
			must(t, err)
		}
		switch name {
		case "all", "tail":
			must(t, f.Truncate(40<<20))
		case "alltebi":
			must(t, f.Truncate(1<<40))
		}
		must(t, f.Close())
	}
}

// makeDeep makes levels folders inside each other, whose path is far beyond PATH_MAX,
// each with a file that comes before the next folder and a file that comes after it.
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

// writeFiles makes files below dir with the folders on the way: path and content in turn.
func writeFiles(t testing.TB, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte(files[i+1]), 0o644))
	}
}
