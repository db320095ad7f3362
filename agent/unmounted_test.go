package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// TestUnmountedVolume: an instance whose volume became empty is
// neither frozen nor released; allow_empty lets it pass.
func TestUnmountedVolume(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 256<<20)
	h := newHost(t)
	volume, file := h.volumeOn(d.Point, false, []byte("what phone-1 holds"))
	h.cfg = strings.Replace(h.cfg, "hold: frozen", "hold: precopy\n    release: control-plane", 1)
	h.start()
	h.backup("acme", "backup-1", "phone-1")
	h.eventually("held with a backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
	h.call("POST", "/v1/agent/instances/phone-1/resume", "acme", "resume-1", "")
	h.ended("holdfast.instance.resumed")
	if !strings.Contains(h.logs.String(), "precopying") {
		t.Error("no round read the volume before the hold")
	}
	d.Unmount()
	if err := os.Mkdir(volume, 0o755); err != nil { // below the mount point
		t.Fatal(err)
	}
	before, err := os.Stat(h.in("phone-1.state")) // freeze and thaw write it
	if err != nil {
		t.Fatal(err)
	}
	h.backup("acme", "backup-2", "phone-1")
	failed := h.ended("holdfast.backup.failed")
	why, _ := failed["reason"].(string)
	for _, word := range []string{`volume "data"`, "1 file", "mount the volume", "allow_empty: true"} {
		if !strings.Contains(why, word) {
			t.Errorf("%q is not in the reason: %v", word, failed)
		}
	}
	if after, err := os.Stat(h.in("phone-1.state")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the instance was touched (%v)", err)
	}
	h.stop()
	h.cfg = strings.Replace(h.cfg, "{name: data, path: "+filepath.Dir(file), "{name: data, allow_empty: true, path: "+filepath.Dir(file), 1)
	h.start()
	h.backup("acme", "backup-3", "phone-1")
	h.eventually("backed up empty", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
}
