package evidence

import (
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// TestFileSystemHasTheUUID: the name has the UUID that blkid(8) shows,
// stays the same over a power cut, and is another one after mkfs.
func TestFileSystemHasTheUUID(t *testing.T) {
	testbed.Need(t, "blkid")
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := testbed.NewPowerDisk(t, kind, 512<<20)
			blkid, err := testbed.Program("blkid")
			must(t, err)
			out, err := exec.Command(blkid, "-p", "-s", "UUID", "-o", "value", d.Device).Output()
			must(t, err)
			want := kind + " " + strings.TrimSpace(string(out))
			if got := FileSystemOf(d.Point); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			d.Sync()
			d.PowerCut()
			if got := FileSystemOf(d.Point); got != want {
				t.Errorf("%q after a power cut, want %q", got, want)
			}
			if other := FileSystemOf(testbed.NewPowerDisk(t, kind, 512<<20).Point); SameFileSystem(other, want) {
				t.Errorf("another disk is %q too", other)
			}
			if got := FileSystemOf(d.Device); got != "block device" {
				t.Errorf("the device is %q", got)
			}
		})
	}
	if got := FileSystemOf("/proc/self"); got != "proc" {
		t.Errorf("%q", got)
	}
}

func TestSameFileSystem(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"ext4 1", "ext4 1", true},
		{"ext4 1", "ext4 2", false},
		{"ext4 1", "xfs 1", false},
		{"ext4", "ext4 2", true},
		{"ext4 1", "ext4", true},
		{"tmpfs", "tmpfs", true},
		{"tmpfs", "ext4", false},
		{"", "ext4 1", true},
		{"ext4 1", "", true},
	} {
		if SameFileSystem(c.a, c.b) != c.same {
			t.Errorf("%q, %q: not %v", c.a, c.b, c.same)
		}
	}
}
