package agent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

// TestSnapshotThatStays: on a file system that turned read-only under
// a job, the job ends, is reported, another command is taken, and the
// agent stops at once. The snapshot is listed until it can be removed.
func TestSnapshotThatStays(t *testing.T) {
	testbed.Need(t, "btrfs")
	h, mount := newHost(t), testbed.Btrfs(t)
	h.volumeOn(mount, false, []byte("content"))
	h.cfg = strings.Replace(h.cfg, "drain_timeout: 5s", "drain_timeout: 10m", 1)
	h.start()
	h.plane.answer(func(model.Event) int { return 503 })
	h.backup("acme", "backup-1", "phone-1")
	h.eventually("it is stored", func() bool { return len(h.bases(mount)) == 1 && strings.Contains(h.logs.String(), "backup stored") })
	readOnly := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", mount, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	readOnly(unix.MS_RDONLY)
	h.plane.answer(nil)
	h.eventually("it is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	h.eventually("the leftover is listed", func() bool {
		info, err := api.NewClient(h.in("s")).Info(t.Context())
		return err == nil && len(info.Leftovers) == 1 && info.Leftovers[0].InstanceID == "phone-1" &&
			strings.HasPrefix(info.Leftovers[0].Path, mount) && strings.Contains(info.Leftovers[0].Error, "read-only")
	})
	h.metrics("holdfast_leftovers 1")
	h.write("phone-1.state", "running\n", 0o600)
	// it is taken; there can be no snapshot, so the volume is read in place or the job fails
	h.backup("acme", "backup-2", "phone-1")
	h.eventually("it ends", func() bool {
		info, err := api.NewClient(h.in("s")).Info(t.Context())
		return err == nil && info.JobsActive == 0 && info.JobsQueued == 0
	})
	begin := time.Now()
	h.stop()
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the stop took %s", took)
	}
	readOnly(0)
	h.start()
	h.eventually("it is removed", func() bool {
		info, err := api.NewClient(h.in("s")).Info(t.Context())
		_, lerr := os.Lstat(filepath.Join(mount, ".holdfast-snapshots"))
		return err == nil && len(info.Leftovers) == 0 && os.IsNotExist(lerr)
	})
}

// TestAnotherProviderServes: a swap file in the volume keeps btrfs from making snapshots; the
// job reads the volume in place, releases the instance all the same, and tells the consequences.
func TestAnotherProviderServes(t *testing.T) {
	testbed.Need(t, "btrfs")
	for _, hold := range []string{"frozen", "precopy"} {
		h, mount := newHost(t), testbed.Btrfs(t)
		volume, _ := h.volumeOn(mount, false, []byte("content"))
		h.cfg = strings.Replace(h.cfg, "hold: frozen", "hold: "+hold, 1)
		swap := filepath.Join(volume, "swap")
		for _, c := range [][]string{{"touch", swap}, {"chattr", "+C", swap}, {"dd", "if=/dev/zero", "of=" + swap, "bs=1M", "count=1"}, {"mkswap", swap}, {"swapon", swap}} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v: %s", c, err, out)
			}
		}
		off := func() { _ = exec.Command("swapoff", swap).Run() }
		t.Cleanup(off)
		h.start()
		h.backup("acme", "backup-1", "phone-1")
		h.eventually("it is released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
		if logs := h.logs.String(); !strings.Contains(logs, "swap file") || !strings.Contains(logs, "held while the volume is read") {
			t.Errorf("%s: the log does not tell why, or what it meant:\n%s", hold, logs)
		}
		h.stop()
		off()
	}
}
