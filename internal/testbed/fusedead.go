package testbed

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// StrangersFUSE mounts over the folder point a FUSE of the user uid, as fusermount(1)
// does, which only that user may look at: for everybody else, also for root, each
// operation fails with EACCES. With uid 0 and after die its server is dead: each
// operation fails with ENOTCONN. Nobody serves the mount, so an operation of the user
// itself waits until die. The mount is removed after the test.
func StrangersFUSE(t testing.TB, point string, uid int) (die func()) {
	t.Helper()
	Need(t, "fuse")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/fuse: %v", err)
	}
	die = func() {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing was written
			fd = -1
		}
	}
	t.Cleanup(die)
	options := fmt.Sprintf("fd=%d,rootmode=040000,user_id=%d,group_id=%d", fd, uid, uid)
	if err := unix.Mount("holdfast-test", point, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatalf("mount a FUSE at %s: %v", point, err)
	}
	t.Cleanup(func() {
		die()
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount the test's FUSE: %v", err)
		}
	})
	return die
}
