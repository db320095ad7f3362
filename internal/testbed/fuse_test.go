package testbed_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestFUSE has a FUSE do every operation well, then badly, then well again.
func TestFUSE(t *testing.T) {
	f := testbed.StartFUSE(t)
	in := func(name string) string { return filepath.Join(f.Point, name) }
	folder := func() *os.File {
		d, err := os.Open(f.Point)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write := func(name string) error { return os.WriteFile(in(name), []byte("content"), 0o640) }
	locked := func() error {
		file, err := os.Open(in("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err := write("a"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		op testbed.FUSEOp
		do func() error
	}{
		{testbed.FUSECreate, func() error { return write("new") }},
		{testbed.FUSEWrite, func() error { return write("a") }},
		{testbed.FUSETruncate, func() error { return os.Truncate(in("a"), 7) }},
		{testbed.FUSEOpen, func() error { _, err := os.ReadFile(in("a")); return err }},
		{testbed.FUSERead, func() error { _, err := os.ReadFile(in("a")); return err }},
		{testbed.FUSELookup, func() error { _, err := os.Stat(in("a")); return err }},
		{testbed.FUSELink, func() error { return os.Link(in("a"), in("link")) }},
		{testbed.FUSESymlink, func() error { return os.Symlink("a", in("symlink")) }},
		{testbed.FUSEReadlink, func() error { _, err := os.Readlink(in("symlink")); return err }},
		{testbed.FUSEMkdir, func() error { return os.Mkdir(in("folder"), 0o700) }},
		{testbed.FUSEMknod, func() error { return unix.Mknod(in("fifo"), unix.S_IFIFO|0o600, 0) }},
		{testbed.FUSERename, func() error { return os.Rename(in("link"), in("moved")) }},
		{testbed.FUSERenameNew, func() error {
			return unix.Renameat2(unix.AT_FDCWD, in("moved"), unix.AT_FDCWD, in("folder/moved"), unix.RENAME_NOREPLACE)
		}},
		{testbed.FUSEUnlink, func() error { return os.Remove(in("folder/moved")) }},
		{testbed.FUSERmdir, func() error { return unix.Rmdir(in("folder")) }},
		{testbed.FUSEChmod, func() error { return os.Chmod(in("a"), 0o600) }},
		{testbed.FUSEChown, func() error { return os.Chown(in("a"), 1, 1) }},
		{testbed.FUSETimes, func() error { return unix.UtimesNano(in("a"), make([]unix.Timespec, 2)) }},
		{testbed.FUSEOpenFolder, func() error { _, err := os.ReadDir(f.Point); return err }},
		{testbed.FUSEReadFolder, func() error { _, err := os.ReadDir(f.Point); return err }},
		{testbed.FUSESyncFolder, func() error { d := folder(); return errors.Join(d.Sync(), d.Close()) }},
		{testbed.FUSESetXattr, func() error { return unix.Setxattr(in("a"), "user.x", []byte("1"), 0) }},
		{testbed.FUSEGetXattr, func() error { _, err := unix.Getxattr(in("a"), "user.x", make([]byte, 9)); return err }},
		{testbed.FUSEListXattr, func() error { _, err := unix.Listxattr(in("a"), make([]byte, 99)); return err }},
		{testbed.FUSERemoveXattr, func() error { return unix.Removexattr(in("a"), "user.x") }},
		{testbed.FUSEStatfs, func() error { return unix.Statfs(f.Point, &unix.Statfs_t{}) }},
		{testbed.FUSELock, locked},
	} {
		f.Set(testbed.FUSERefuses(unix.EDOM, c.op))
		if err := c.do(); !errors.Is(err, unix.EDOM) {
			t.Errorf("%s is refused: %v", c.op, err)
		}
		f.Set(testbed.FUSERefuses(unix.EDOM, c.op).At("another"))
		if err := c.do(); err != nil {
			t.Errorf("%s is refused on another path: %v", c.op, err)
		}
		f.Set()
	}
	if got, err := os.ReadFile(filepath.Join(f.Folder, "a")); err != nil || string(got) != "content" {
		t.Errorf("the folder behind holds %q, %v", got, err)
	}
}

func TestFUSELies(t *testing.T) {
	f := testbed.StartFUSE(t)
	path := filepath.Join(f.Point, "a")
	if err := errors.Join(os.WriteFile(path, []byte("content"), 0o640), os.WriteFile(path+"b", []byte("content"), 0o640)); err != nil {
		t.Fatal(err)
	}
	number := func() uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	if a, b := number(), number(); a != b {
		t.Error("without an oddity the inode number changes")
	}
	f.Set(testbed.FUSENumbersChange())
	if a, b := number(), number(); a == b {
		t.Errorf("the inode number stays %d", a)
	}
	for _, size := range []uint64{0, 3, 100} {
		f.Set(testbed.FUSESizes(func(string, uint64) uint64 { return size }).At("a"))
		fi, err := os.Stat(path)
		if err != nil || fi.Size() != int64(size) {
			t.Errorf("the size is %d, %v, want %d", fi.Size(), err, size)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "content" {
			t.Errorf("size %d: read %q, %v", size, got, err)
		}
	}
	f.Set(testbed.Oddity{Read: func(_ string, _ int64, data []byte) ([]byte, syscall.Errno) { return bytes.ToUpper(data), 0 }}.At("a"))
	if got, err := os.ReadFile(path); err != nil || string(got) != "CONTENT" {
		t.Errorf("read %q, %v", got, err)
	}
	if got, err := os.ReadFile(path + "b"); err != nil || string(got) != "content" {
		t.Errorf("read of another %q, %v", got, err)
	}
}
