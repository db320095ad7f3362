package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/mounts"
)

// filesystemSize is the size in bytes of a made file system; the file under it is sparse.
const filesystemSize = 4 << 30

// unmountPatience is how long a busy file system is asked again before it is
// detached lazily. Containers that just ended hold their mounts for a moment.
const unmountPatience = 3 * time.Second

// Btrfs mounts a new btrfs on a loop device and returns where. It goes with the test.
func Btrfs(t testing.TB) string { t.Helper(); return Filesystem(t, "btrfs", filesystemSize) }

// Ext4 mounts a new ext4 on a loop device and returns where. It goes with the test.
func Ext4(t testing.TB) string { t.Helper(); return Filesystem(t, "ext4", filesystemSize) }

// Xfs mounts a new xfs, with reflinks, on a loop device and returns where. It goes with the test.
func Xfs(t testing.TB) string { t.Helper(); return Filesystem(t, "xfs", filesystemSize) }

// Filesystem mounts a new file system of that kind (btrfs, ext4, xfs) and size in bytes.
func Filesystem(t testing.TB, kind string, size int64) string {
	t.Helper()
	Need(t, kind)
	dir := Dir(t)
	image, point := filepath.Join(dir, kind+".img"), filepath.Join(dir, kind)
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.Mkdir(point, 0o755)); err != nil {
		t.Fatal(err)
	}
	force := "-f"
	if kind == "ext4" {
		force = "-F"
	}
	if err := run("mkfs."+kind, "-q", force, image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmountBelow(dir), detachBelow(dir)); err != nil {
			t.Errorf("remove the test's %s: %v", kind, err)
		}
	})
	if err := run("mount", "-o", "loop", "-t", kind, image, point); err != nil {
		t.Fatal(err)
	}
	return point
}

// Tmpfs mounts a new tmpfs with these mount options, such as
// "size=1g", and returns where. It goes with the test.
func Tmpfs(t testing.TB, options string) string {
	t.Helper()
	Need(t, "root")
	dir := Dir(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a tmpfs (%s): %v", options, err)
	}
	t.Cleanup(func() {
		if err := unmountBelow(dir); err != nil {
			t.Errorf("remove the test's tmpfs: %v", err)
		}
	})
	return dir
}

// unmountBelow unmounts all that is mounted at or below dir, the innermost first.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.Reverse(points)
	var errs []error
	for _, p := range points {
		err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW)
		for end := time.Now().Add(unmountPatience); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
			err = unix.Unmount(p, unix.UMOUNT_NOFOLLOW)
		}
		if errors.Is(err, unix.EBUSY) {
			fmt.Fprintf(os.Stderr, "testbed: %s is still in use, detached\n", p)
			// By force: calls on a file system in user space that does not answer then fail.
			err = unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH|unix.MNT_FORCE)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow lists the mount points at or below dir in the order they were mounted.
func mountsBelow(dir string) ([]string, error) {
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range table {
		if m.Point == dir || strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// unmountElsewhere unmounts a device in all other mount namespaces. A
// process of another test that was started in a mount namespace of its
// own has a copy of each mount, which keeps the file system alive.
func unmountElsewhere(device string) error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		return err
	}
	done := map[string]bool{own: true}
	for _, table := range tables {
		process := filepath.Dir(table)
		space, err := os.Readlink(filepath.Join(process, "ns/mnt"))
		if err != nil || done[space] {
			continue // the process has ended, mostly
		}
		done[space] = true
		there, err := mounts.Read(table)
		if err != nil {
			continue
		}
		for _, m := range slices.Backward(there) {
			if m.Source != device {
				continue
			}
			if err := run("nsenter", "--mount="+filepath.Join(process, "ns/mnt"), "umount", "--lazy", m.Point); err != nil {
				return fmt.Errorf("unmount %s in the namespace of process %s: %w", m.Point, filepath.Base(process), err)
			}
		}
	}
	return nil
}

// detachBelow frees the loop devices whose file lies below dir. A device that was
// mounted with -o loop frees itself when unmounted, so detachBelow finds only devices
// that were made in another way.
func detachBelow(dir string) error {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var errs []error
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(backing), dir+"/") {
			continue
		}
		name := "/dev/" + strings.Split(f, "/")[3]
		dev, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
		_ = dev.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) {
			errs = append(errs, fmt.Errorf("detach %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
