package agent_test

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestJobOnLogicalVolumes: instances with a file system on a thin and on a
// classic logical volume, and with a logical volume as their disk, are backed up
// by snapshots of LVM and released, nothing is left behind, and a restore brings
// back their exact content: in the same place, or on another logical volume.
func TestJobOnLogicalVolumes(t *testing.T) {
	if !testbed.InMachine() {
		testbed.RunInMachine(t, testbed.LVMMachine(t, 1<<30), 10*time.Minute)
		return
	}
	const group, size = "instances", 8 << 20
	command := func(t *testing.T, args ...string) string {
		t.Helper()
		var errs bytes.Buffer
		c := exec.Command(args[0], args[1:]...)
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, errs.String())
		}
		return string(out)
	}
	command(t, "dmsetup", "create", "disk", "--table", "0 "+strings.TrimSpace(command(t, "blockdev", "--getsz", "/dev/vda"))+" linear /dev/vda 0")
	for _, args := range [][]string{
		{"pvcreate", "/dev/mapper/disk"},
		{"vgcreate", group, "/dev/mapper/disk"},
		{"lvcreate", "--type", "thin-pool", "--size", "320m", "--name", "pool", group},
		{"lvcreate", "--thin", "--virtualsize", "64m", "--name", "thin", group + "/pool"},
		{"lvcreate", "--thin", "--virtualsize", "8m", "--name", "image", group + "/pool"},
		{"lvcreate", "--thin", "--virtualsize", "8m", "--name", "other", group + "/pool"},
		{"lvcreate", "--wipesignatures", "n", "--size", "64m", "--name", "classic", group},
	} {
		command(t, append([]string{"lvm"}, args...)...)
	}
	volumes := func(t *testing.T) string {
		return command(t, "lvm", "lvs", "--all", "--noheadings", "-o", "lv_name,lv_tags", group)
	}
	before := volumes(t)
	for _, name := range []string{"thin", "classic", "image"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			content := make([]byte, size)
			_, _ = rand.Read(content)
			device := filepath.Join("/dev", group, name)
			volume, large := device, device
			if name == "image" {
				if err := os.WriteFile(device, content, 0); err != nil {
					t.Fatal(err)
				}
				unix.Sync()
				h.volumeAt(device, "precopy")
			} else {
				command(t, "mkfs.ext4", "-q", "-F", device)
				mount := h.in("mount")
				if err := os.Mkdir(mount, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount(device, mount, "ext4", 0, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := unix.Unmount(mount, 0); err != nil {
						t.Error(err)
					}
				})
				volume, large = h.volumeOn(mount, false, content)
			}
			h.cfg += "\nbandwidth: {up: 4MiB}\n" // so that the snapshot stands for a while
			h.start()
			h.backup("acme", "backup-1", "phone-1")
			h.eventually("a snapshot of LVM", func() bool { return strings.Contains(volumes(t), "holdfast") })
			h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
			h.eventually("the snapshot is gone", func() bool { return volumes(t) == before })
			data := h.ended("holdfast.backup.completed")
			if data["bytes"].(float64) != size {
				t.Errorf("the report says %v", data)
			}
			if name == "image" {
				large = filepath.Join("/dev", group, "other")
				h.restore("acme", "phone-1", data["backup_id"].(string), large)
			} else {
				if err := os.RemoveAll(volume); err != nil {
					t.Fatal(err)
				}
				h.call(http.MethodPost, "/v1/instances/prepare", "acme", "prepare-1", `{"instance_ids":["phone-1"]}`)
				h.ended("holdfast.restore.completed")
			}
			got, err := os.ReadFile(large)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("restored something else (%v)", err)
			}
		})
	}
}
