package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestDiskThatIsNotMounted: the disk of all volumes is not mounted, and its content is newer than
// the backup. The restore goes to the file system below, and its report says that the disk may only
// not be mounted. Once the disk is back, its content is the instance's, and stays.
func TestDiskThatIsNotMounted(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	disk, point := testbed.Ext4(t), filepath.Join(testbed.Ext4(t), "disk")
	mount := func() {
		t.Helper()
		must(t, unix.Mount(disk, point, "", unix.MS_BIND, ""))
	}
	must(t, os.Mkdir(point, 0o755))
	mount()
	t.Cleanup(func() { must(t, unix.Unmount(point, 0)) })
	d := newOnDisk(t, point)
	d.fresh()
	prepared := func(request string, warns bool) {
		t.Helper()
		kind, done, reason := d.prepares(request)
		if kind != "holdfast.restore.completed" || strings.Contains(done.Warning, "if that disk is only not mounted") != warns {
			t.Errorf("%s: %s (%s), warning %q", request, kind, reason, done.Warning)
		}
	}
	must(t, errors.Join(os.RemoveAll(d.data), os.RemoveAll(d.media)))
	prepared("disk-of-before", false)
	d.unsaved()
	d.stop()
	must(t, unix.Unmount(point, 0))
	d.start()
	prepared("without-disk", true)
	d.holds("backed up")
	d.stop()
	mount()
	d.start()
	prepared("disk-again", false)
	d.holds("unsaved")
}
