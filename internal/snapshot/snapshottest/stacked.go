package snapshottest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The records that are written to a file system on a volume before a view is made.
const (
	stackedSynced   = 500  // of records that are flushed with fsync
	stackedUnsynced = 1500 // of records in all
)

// flushesStacked mounts a file system that lies in the volume and writes numbered records to it,
// first with fsync and then without. A view holds all of them, though nobody has written them back.
func flushesStacked(t *testing.T, s Subject) {
	device := s.Volume
	if !s.Image {
		device = image(t, filepath.Join(s.Volume, "in", "disk.img"))
	}
	point := MountImage(t, device)
	WriteRecords(t, point)
	snap := create(t, s, "stacked")
	if len(snap.Unflushed) > 0 {
		t.Errorf("not flushed: %q", snap.Unflushed)
	}
	view := s.of(snap)
	if !s.Image {
		view = filepath.Join(view, "in", "disk.img")
	}
	CheckRecords(t, view)
}

// image makes an image of zeros.
func image(t *testing.T, path string) string {
	t.Helper()
	write(t, path, "")
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

// MountImage makes an ext4 on an image or device and mounts it until the test ends.
func MountImage(t testing.TB, path string) (point string) {
	t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 %s: %v: %s", path, err, out)
	}
	return mountImage(t, path)
}

func mountImage(t testing.TB, path string) (point string) {
	t.Helper()
	point = t.TempDir()
	if err := unix.Mount(AttachLoop(t, path), point, "ext4", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", path, err)
	}
	t.Cleanup(func() {
		err := unix.Unmount(point, 0)
		for end := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			err = unix.Unmount(point, 0)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return point
}

// AttachLoop attaches a loop device to a file until the test ends
// and gives the device. A block device stands for itself.
func AttachLoop(t testing.TB, path string) (device string) {
	t.Helper()
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeDevice != 0 {
		return path
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		device = fmt.Sprintf("/dev/loop%d", n)
		loop, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd())})
		loop.Close()
		if errors.Is(err, unix.EBUSY) { // another process has taken it
			continue
		}
		if err != nil {
			t.Fatalf("attach %s to %s: %v", device, path, err)
		}
		break
	}
	t.Cleanup(func() {
		loop, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer loop.Close()
		if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
			t.Errorf("detach %s: %v", device, err)
		}
	})
	return device
}

// WriteRecords writes numbered records of 8 bytes to the file system at point. It
// flushes the records of one file with fsync, and leaves the records of another file
// and of many small ones unflushed.
func WriteRecords(t testing.TB, point string) {
	t.Helper()
	f, err := os.Create(filepath.Join(point, "records"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := range uint64(stackedUnsynced) {
		if _, err := f.Write(binary.BigEndian.AppendUint64(nil, n+1)); err != nil {
			t.Fatal(err)
		}
		if n+1 == stackedSynced {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range 50 {
		if err := os.WriteFile(filepath.Join(point, fmt.Sprint("small-", n)), []byte(fmt.Sprint(n)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// CheckRecords mounts a copy of an image and looks for all that WriteRecords has written.
func CheckRecords(t testing.TB, path string) {
	t.Helper()
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	copied, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if _, err := io.Copy(copied, from); err != nil {
		t.Fatal(err)
	}
	LookForRecords(t, mountImage(t, copied.Name()))
}

// LookForRecords looks in a mounted file system for all that WriteRecords has written.
func LookForRecords(t testing.TB, point string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(point, "records"))
	if err != nil {
		t.Error(err)
	}
	n := 0
	for n < len(got)/8 && binary.BigEndian.Uint64(got[8*n:]) == uint64(n+1) {
		n++
	}
	if n != stackedUnsynced {
		t.Errorf("the view holds %d records of %d (%d bytes), of which %d were flushed with fsync", n, stackedUnsynced, len(got), stackedSynced)
	}
	for n := range 50 {
		if got, err := os.ReadFile(filepath.Join(point, fmt.Sprint("small-", n))); string(got) != fmt.Sprint(n) {
			t.Errorf("small file %d holds %q, %v", n, got, err)
		}
	}
}
