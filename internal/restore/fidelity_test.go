package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestFidelity backs up a tree of every case on each file system,
// restores it, and compares with tools that are not ours.
func TestFidelity(t *testing.T) {
	for _, c := range []struct {
		kind  string
		mount func(testing.TB) string
	}{{"ext4", testbed.Ext4}, {"btrfs", testbed.Btrfs}, {"xfs", testbed.Xfs}} {
		t.Run(c.kind, func(t *testing.T) {
			testbed.Need(t, append([]string{"root", c.kind}, comparers...)...)
			mount := c.mount(t)
			src, deep, dst := filepath.Join(mount, "src"), filepath.Join(mount, "deep"), filepath.Join(mount, "dst")
			makeEverything(t, src, c.kind)
			makeDeep(t, deep, 400)
			warnings := backUpUnderAMount(t, src, deep, dst)
			if len(warnings) != 1 || warnings[0].Path != "mnt" || !warnings[0].Lost {
				t.Errorf("warnings: %v", warnings)
			}
			for _, d := range treeDifferences(t, src, filepath.Join(dst, "v0"), c.kind) {
				t.Error(d)
			}
			if a, b := deepTar(t, deep), deepTar(t, filepath.Join(dst, "v1")); !bytes.Equal(a, b) {
				t.Error("the trees beyond PATH_MAX differ")
			}
		})
	}
}

// backUpUnderAMount mounts something in src, whose root looks as
// the folder below it, and takes src and deep to dst.
func backUpUnderAMount(t *testing.T, src, deep, dst string) []tree.Warning {
	t.Helper()
	mnt := filepath.Join(src, "mnt")
	must(t, unix.Mount("none", mnt, "tmpfs", 0, "mode=755"))
	defer func() { must(t, unix.Unmount(mnt, 0)) }()
	must(t, os.WriteFile(filepath.Join(mnt, "hidden"), nil, 0o600))
	setTime(t, mnt, 7, 7)
	v := newVault(t, obs.NewMemory())
	res, err := backup.Run(t.Context(), backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "v0", Root: src}, {Volume: "v1", Root: deep}},
	})
	must(t, err)
	ref, err := v.Find(t.Context(), "i", res.BackupID)
	must(t, err)
	restored, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dst})
	must(t, err)
	return append(res.Warnings, restored.Warnings...)
}

// comparers are the programs that treeDifferences needs.
var comparers = []string{"rsync", "getfattr", "setfattr", "setfacl", "find", "stat", "filefrag", "lsattr", "chattr"}

// comparisons print records of a tree, sorted, which end in sep.
var comparisons = []struct{ name, sep, script string }{
	{"attributes", "\n\n", `find . -print0 | sort -z | xargs -0 getfattr -h -d -m- -e hex --absolute-names`},
	{"links and times", "\x00", `find . -printf '%p|%y|%m|%U|%G|%T@|%l|%n|%f\0' | sort -z`},
	{"stat", "\x00", `find . -print0 | sort -z | xargs -0 stat --printf '%n|%f|%u|%g|%t|%T|%.9Y\0'`},
	{"sizes", "\x00", `find . ! -type d -print0 | sort -z | xargs -0 stat --printf '%n|%s\0'`},
	{"hard links", "\n", `find . -links +1 ! -type d -printf '%i %P\0' | sort -z -k2 | tr '\0' '\n' | awk '{ if (!($1 in n)) n[$1]=++c; $1=n[$1]; print }'`},
	{"flags", "\n", `lsattr -aR . 2>/dev/null | grep -v '/\.\.$'`},
}

// treeDifferences lists what rsync, getfattr, find, stat, lsattr and filefrag find to differ.
func treeDifferences(t *testing.T, a, b, kind string) []string {
	t.Helper()
	var all []string
	// A hole of 1 TiB takes rsync an hour to read.
	out := tool(t, "/", "rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", "--exclude=/holes/*tebi", a+"/", b+"/")
	for line := range strings.Lines(out) {
		all = append(all, "rsync: "+line)
	}
	for _, c := range comparisons {
		script := "export LC_ALL=C; " + c.script
		if c.name == "flags" && kind == "xfs" {
			script = strings.Replace(script, "lsattr -aR", "lsattr -aRp", 1)
		}
		all = append(all, recordDifferences(c.name, tool(t, a, "sh", "-c", script), tool(t, b, "sh", "-c", script), c.sep)...)
	}
	if kind == "xfs" {
		all = append(all, recordDifferences("projects", specialProjects(t, a), specialProjects(t, b), "\n")...)
	}
	holes, err := os.ReadDir(filepath.Join(a, "holes"))
	must(t, err)
	for _, e := range holes {
		x, y := filepath.Join(a, "holes", e.Name()), filepath.Join(b, "holes", e.Name())
		if m, n := extents(t, x), extents(t, y); m != n {
			all = append(all, fmt.Sprintf("filefrag: holes/%s: %s, %s", e.Name(), m, n))
		}
	}
	return all
}

// recordDifferences compares a tool's output for two trees, record by record.
func recordDifferences(name, a, b, sep string) []string {
	var all []string
	if a == "" || b == "" {
		all = append(all, name+": one prints nothing")
	}
	count := map[string]int{}
	for r := range strings.SplitSeq(a, sep) {
		count[r]++
	}
	for r := range strings.SplitSeq(b, sep) {
		count[r]--
	}
	for r, n := range count {
		if n != 0 {
			all = append(all, fmt.Sprintf("%s: in one only: %q", name, r))
		}
	}
	return all
}

// specialProjects lists flags and projects of entries that are neither file nor
// folder, for which no tool has an option: through file_getattr of Linux 6.17.
func specialProjects(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	for name := range strings.SplitSeq(strings.TrimSuffix(tool(t, dir, "sh", "-c", `find . ! -type f ! -type d -print0 | LC_ALL=C sort -z`), "\x00"), "\x00") {
		path, err := unix.BytePtrFromString(filepath.Join(dir, name))
		must(t, err)
		var attr [6]uint32 // flags u64, two numbers, project, one number
		at := unix.AT_FDCWD
		_, _, e := unix.Syscall6(468, uintptr(at), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), unix.AT_SYMLINK_NOFOLLOW, 0)
		if e != 0 && e != unix.ENOSYS {
			t.Fatalf("file_getattr %q: %v", name, e)
		}
		// the bit says that there are attributes
		fmt.Fprintf(&s, "%q %v %d %d\n", name, e, attr[0]&^(1<<31), attr[4])
	}
	return s.String()
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

func tool(t testing.TB, dir string, cmd ...string) string {
	t.Helper()
	path, err := testbed.Program(cmd[0])
	must(t, err)
	c := exec.Command(path, cmd[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd, " "), err, out)
	}
	return string(out)
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

// TestComparisonNoticesDifferences: each way in which a restore could be wrong is found.
func TestComparisonNoticesDifferences(t *testing.T) {
	testbed.Need(t, append([]string{"root", "xfs"}, comparers...)...)
	mount := testbed.Xfs(t)
	src, deep, dst := filepath.Join(mount, "src"), filepath.Join(mount, "deep"), filepath.Join(mount, "dst")
	makeEverything(t, src, "xfs")
	makeDeep(t, deep, 3)
	backUpUnderAMount(t, src, deep, dst)
	dst = filepath.Join(dst, "v0")
	at := func(name string) string { return filepath.Join(dst, name) }
	find := map[string]string{} // what must be found -> by what
	spoil := func(name, finder string, do func(path string) error) {
		t.Helper()
		must(t, do(at(name)))
		find[finder+"\x00"+name] = ""
	}
	sameTime := func(path string, do func() error) error {
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		err := do()
		setTime(t, path, st.Mtim.Sec, st.Mtim.Nsec)
		return err
	}
	spoil("plain", "rsync", func(p string) error {
		return sameTime(p, func() error { return os.WriteFile(p, []byte("Content"), 0) })
	})
	spoil("a/b/c/d", "stat", func(p string) error { setTime(t, p, 1_700_000_000, 1); return nil })
	spoil("mode/all", "stat", func(p string) error { return unix.Chmod(p, 0o6777) })
	spoil("owner/other", "stat", func(p string) error { return os.Chown(p, 1000, 1002) })
	spoil("disk", "stat", func(p string) error {
		must(t, os.Remove(p))
		return unix.Mknod(p, unix.S_IFBLK|0o660, int(unix.Mkdev(500, 1<<17+1)))
	})
	spoil("socket", "links and times", func(p string) error { must(t, os.Remove(p)); return unix.Mkfifo(p, 0o755) })
	spoil("a/dangling", "links and times", func(p string) error { must(t, os.Remove(p)); return os.Symlink("/nowhere/\xfe", p) })
	spoil("zz", "hard links", func(p string) error { must(t, os.Remove(p)); return os.WriteFile(p, []byte("linked"), 0o644) })
	spoil("attrs/selinux", "attributes", func(p string) error {
		return unix.Setxattr(p, "security.selinux", []byte("u:object_r:other:s0\x00"), 0)
	})
	spoil("fifo", "attributes", func(p string) error { return unix.Removexattr(p, "trusted.fifo") })
	spoil("attrs/acl", "attributes", func(p string) error { tool(t, "/", "setfacl", "-m", "u:1235:r", p); return nil })
	spoil("flags/file i", "flags", func(p string) error { tool(t, "/", "chattr", "-i", p); return nil })
	spoil("flags/folder d", "flags", func(p string) error { tool(t, "/", "chattr", "-d", p); return nil })
	spoil("flags/project/file", "flags", func(p string) error { tool(t, "/", "chattr", "-p", "4243", p); return nil })
	spoil("flags/project/fifo", "projects", func(p string) error {
		must(t, os.Remove(p))
		must(t, unix.Mkfifo(at("fifo of no project"), 0o600))
		tool(t, "/", "chattr", "-P", at("flags/project"))
		must(t, os.Rename(at("fifo of no project"), p))
		return nil
	})
	spoil("holes/middle", "filefrag", func(p string) error {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(make([]byte, 4096), 1<<20)
		must(t, err)
		return f.Close()
	})
	spoil("holes/tail", "sizes", func(p string) error { return os.Truncate(p, 40<<20-1) })
	spoil("emptydir", "rsync", os.Remove)
	spoil("new name", "rsync", func(p string) error { return os.WriteFile(p, nil, 0o600) })
	found := treeDifferences(t, src, dst, "xfs")
	for k := range find {
		finder, name, _ := strings.Cut(k, "\x00")
		ok := false
		for _, d := range found {
			ok = ok || strings.HasPrefix(d, finder+":") && strings.Contains(d, name)
		}
		if !ok {
			t.Errorf("%s does not find that %q differs", finder, name)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(found, "\n"))
	}
}
