package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

// imageAt makes an image of that size in bytes the volume of phone-1.
func (h *host) imageAt(image string, size int64) {
	h.t.Helper()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		h.t.Fatal(err)
	}
	h.volumeAt(image, "frozen")
}

// TestMountedImageIsWhole: an instance that writes to a file system which the
// host has mounted from its image is backed up with all its writes, released,
// and restored, also with data that the kernel has not written back.
func TestMountedImageIsWhole(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs", "ext4")
	for name, place := range map[string]func(testing.TB) string{"btrfs": testbed.Btrfs, "xfs": testbed.Xfs, "ext4": testbed.Ext4} {
		t.Run(name, func(t *testing.T) {
			h, image := newHost(t), filepath.Join(place(t), "disk.img")
			h.imageAt(image, 8<<20)
			point := snapshottest.MountImage(t, image)
			h.start()
			snapshottest.WriteRecords(t, point)
			h.backup("acme", "backup-1", "phone-1")
			h.eventually("it is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
			backup, _ := h.ended("holdfast.backup.completed")["backup_id"].(string)
			dest := h.in("back")
			h.restore("acme", "phone-1", backup, dest)
			restored := dest
			if info, err := os.Stat(dest); err == nil && info.IsDir() {
				restored = filepath.Join(dest, "data")
			}
			snapshottest.CheckRecords(t, restored)
		})
	}
}

// TestUnflushedIsNotReleased: what stands on a volume and can't be
// flushed fails the job, which names it; the configuration may accept it.
func TestUnflushedIsNotReleased(t *testing.T) {
	testbed.Need(t, "xfs")
	for _, accepted := range []bool{false, true} {
		h, image := newHost(t), filepath.Join(testbed.Xfs(t), "disk.img")
		h.imageAt(image, 8<<20)
		if accepted {
			h.cfg = strings.Replace(h.cfg, "path: "+image+"}", "path: "+image+", accept_unflushed: true}", 1)
		}
		loop := snapshottest.AttachLoop(t, image)
		taken, err := os.OpenFile(loop, os.O_RDWR|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		h.start()
		h.backup("acme", "backup-1", "phone-1")
		if accepted {
			h.eventually("it is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
			if !strings.Contains(h.logs.String(), "accept_unflushed") || !strings.Contains(h.logs.String(), loop) {
				t.Error("the log does not tell what was not flushed")
			}
		} else {
			h.eventually("it fails", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
			var data struct {
				Reason string `json:"reason"`
			}
			if err := json.Unmarshal(h.plane.took("holdfast.backup.failed", "phone-1").Data, &data); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{loop, image, "accept_unflushed"} {
				if !strings.Contains(data.Reason, want) {
					t.Errorf("the reason %q lacks %s", data.Reason, want)
				}
			}
			if got := h.state("phone-1"); got != "running" {
				t.Errorf("the instance is %s", got)
			}
			if left := h.bases(filepath.Dir(image)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		}
		h.stop()
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	}
}
