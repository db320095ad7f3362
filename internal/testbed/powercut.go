package testbed

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// PowerDisk is a file system on a loop device whose power can be cut. Device,
// mount point and UUID stay the same all the time, as on a host that boots again.
type PowerDisk struct {
	Kind   string // ext4, xfs or btrfs
	Point  string // where it is mounted
	Device string // /dev/loopN

	t       testing.TB
	options string // of mount(8)
	image   string // the file under the device
}

// NewPowerDisk mounts a new file system of that kind and size, bytes, with these
// options. The changes of inodes reach the disk minutes later, or when somebody
// asks for it, so that a power cut loses them. The disk goes with the test.
func NewPowerDisk(t testing.TB, kind string, size int64, options ...string) *PowerDisk {
	t.Helper()
	Need(t, kind, "losetup", "mount", "cp")
	dir := Dir(t)
	d := &PowerDisk{Kind: kind, Point: filepath.Join(dir, "disk"), t: t, image: filepath.Join(dir, "disk.img")}
	if kind != "xfs" { // xfs writes its log every 30 seconds
		options = append(options, "commit=300")
	}
	d.options = strings.Join(append([]string{"rw"}, options...), ",")
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, size), os.Mkdir(d.Point, 0o755)); err != nil {
		t.Fatal(err)
	}
	force := "-f"
	if kind == "ext4" {
		force = "-F"
	}
	if err := run("mkfs."+kind, "-q", force, d.image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmountBelow(dir), detachBelow(dir)); err != nil {
			t.Errorf("remove the test's %s: %v", kind, err)
		}
	})
	losetup, err := Program("losetup")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", d.image).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	d.Device = strings.TrimSpace(string(out))
	d.Mount()
	return d
}

// Mount mounts the disk after Unmount.
func (d *PowerDisk) Mount() {
	d.t.Helper()
	if err := run("mount", "-t", d.Kind, "-o", d.options, d.Device, d.Point); err != nil {
		d.t.Fatal(err)
	}
}

// UnmountPoint unmounts the disk from Point in the proper way.
// Where another mount of the disk stands, the file system lives on.
func (d *PowerDisk) UnmountPoint() {
	d.t.Helper()
	if err := unmountBelow(d.Point); err != nil {
		d.t.Fatal(err)
	}
}

// Unmount unmounts the disk in the proper way, and waits until the kernel has given
// up the file system: else the next mount would show the file system that lives on.
func (d *PowerDisk) Unmount() {
	d.t.Helper()
	d.UnmountPoint()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		// A file system has its device for itself alone.
		var fd int
		if fd, err = unix.Open(d.Device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd) // nothing was written
			return
		}
		// a process may have ended meanwhile: the next look tells
		err = errors.Join(err, unmountElsewhere(d.Device))
	}
	d.t.Fatalf("%s is still in use a minute after it was unmounted: %v", d.Device, err)
}

// Sync writes the disk's data in the kernel's memory to the disk.
func (d *PowerDisk) Sync() {
	d.t.Helper()
	f, err := os.Open(d.Point)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		d.t.Fatal(err)
	}
}

// Free unmounts the disk for good and returns its device, for another use.
func (d *PowerDisk) Free() string {
	d.t.Helper()
	d.Unmount()
	return d.Device
}

// PowerCut mounts the content that has reached the disk at this moment, without the
// data that the kernel still has in memory. Files of the disk must be closed. The boot
// id of the host stays the same.
func (d *PowerDisk) PowerCut() {
	d.t.Helper()
	cut := d.image + ".cut"
	if err := run("cp", "--sparse=always", d.image, cut); err != nil {
		d.t.Fatal(err)
	}
	d.Unmount()
	// The content goes back under the same device, because another test may take a
	// device that this test gives up.
	if err := errors.Join(overwrite(d.image, cut), run("blockdev", "--flushbufs", d.Device), os.Remove(cut)); err != nil {
		d.t.Fatal(err)
	}
	d.Mount()
}

// overwrite gives a file of the same size the content of another, in place.
func overwrite(path, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		} else if err != nil {
			return err
		}
		if at, err = unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, at-data)); err != nil {
			return err
		}
	}
}
