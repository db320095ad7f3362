package agent_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// TestSnapshotVanishes: a job whose snapshot somebody removes while it is read
// fails and says so, to the control plane as to who asks, and the instance runs on.
func TestSnapshotVanishes(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	for name, c := range map[string]struct {
		place  func(testing.TB) string
		image  bool
		remove []string
	}{
		"tree on btrfs": {testbed.Btrfs, false, []string{"btrfs", "subvolume", "delete"}},
		"image on xfs":  {testbed.Xfs, true, []string{"rm"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, mount := newHost(t), c.place(t)
			content := make([]byte, 48<<20)
			_, _ = rand.NewChaCha8([32]byte{9}).Read(content)
			h.volumeOn(mount, c.image, content)
			h.cfg += "\nbandwidth: {up: 1MiB}\n" // so that it takes its time
			h.start()
			task := h.backup("acme", "backup-1", "phone-1")
			h.eventually("it is read", func() bool {
				e := h.plane.took("holdfast.backup.progress", "phone-1")
				var now struct {
					Read uint64 `json:"bytes_read"`
				}
				return e != nil && json.Unmarshal(e.Data, &now) == nil && now.Read > 0
			})
			views := h.bases(mount)
			if len(views) != 1 || h.state("phone-1") != "frozen" {
				t.Fatalf("snapshots %v, the instance is %s", views, h.state("phone-1"))
			}
			if out, err := exec.Command(c.remove[0], append(c.remove[1:], views[0])...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			h.eventually("the failure is reported", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
			var data struct {
				Reason string `json:"reason"`
			}
			const why = "snapshot is gone"
			if err := json.Unmarshal(h.plane.took("holdfast.backup.failed", "phone-1").Data, &data); err != nil || !strings.Contains(data.Reason, why) {
				t.Errorf("the report says %q (%v)", data.Reason, err)
			}
			t.Logf("the report says %q", data.Reason)
			if a := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "acme", "r2", ""); !strings.Contains(string(a.Data), why) {
				t.Errorf("the task says %s", a.Data)
			}
			if s := h.state("phone-1"); s != "running" {
				t.Errorf("the instance is %s", s)
			}
		})
	}
}
