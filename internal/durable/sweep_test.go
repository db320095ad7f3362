package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/testbed"
)

// TestSweepLooksAtNoTime: only the lock decides.
func TestSweepLooksAtNoTime(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for name, age := range map[string]time.Duration{
		".holdfast+PAST": 1e5 * time.Hour, ".holdfast+NOW": 0, ".holdfast+FUTURE": -1e5 * time.Hour, "other": 9 * time.Hour,
		".holdfast+LIVE-PAST": 1e5 * time.Hour, ".holdfast+LIVE-FUTURE": -1e5 * time.Hour,
	} {
		path := filepath.Join(dir, name)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
		if name != ".holdfast+LIVE-PAST" && name != ".holdfast+LIVE-FUTURE" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
	}
	// The sweep neither follows nor waits for other objects in the folder.
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(
		os.WriteFile(outside, nil, 0o600), os.Symlink(outside, filepath.Join(dir, ".holdfast+LINK")),
		syscall.Mkfifo(filepath.Join(dir, ".holdfast+FIFO"), 0o600), os.Mkdir(filepath.Join(dir, ".holdfast+DIR"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	if unsure, err := durable.SweepTemporary(root, "."); err != nil || unsure != 0 {
		t.Fatalf("unsure of %d, %v", unsure, err)
	}
	onlyNames(t, dir, ".holdfast+DIR", ".holdfast+FIFO", ".holdfast+LINK", ".holdfast+LIVE-FUTURE", ".holdfast+LIVE-PAST", "other")
	if _, err := os.Stat(outside); err != nil {
		t.Error("the sweep followed a link")
	}
}

// TestSweepWithoutLocks: nothing is removed where nobody can tell the owner.
func TestSweepWithoutLocks(t *testing.T) {
	f := testbed.StartFUSE(t)
	if err := os.WriteFile(filepath.Join(f.Folder, ".holdfast+A"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(f.Point)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for _, errno := range []syscall.Errno{unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP} {
		f.Set(testbed.FUSERefuses(errno, testbed.FUSELock))
		if unsure, err := durable.SweepTemporary(root, "."); err != nil || unsure != 1 {
			t.Errorf("%v: unsure of %d, %v", errno, unsure, err)
		}
	}
	f.Set(testbed.FUSERefuses(unix.EIO, testbed.FUSELock))
	if _, err := durable.SweepTemporary(root, "."); !errors.Is(err, unix.EIO) {
		t.Errorf("a broken disk: %v", err)
	}
	onlyNames(t, f.Folder, ".holdfast+A")
	f.Set()
	if unsure, err := durable.SweepTemporary(root, "."); err != nil || unsure != 0 {
		t.Errorf("unsure of %d, %v", unsure, err)
	}
	onlyNames(t, f.Folder)
}
