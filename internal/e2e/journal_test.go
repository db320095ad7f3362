package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/crashpoint"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// TestJournalIsLost: the disk eats the journal while an instance is frozen
// for a job. The next start lets the instance go, keeps the remains of the
// journal, leaves no snapshot, and takes the command again.
func TestJournalIsLost(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	base := filepath.Join(testbed.Btrfs(t), "phone-1")
	volume, store := filepath.Join(base, "data"), filepath.Join(t.TempDir(), "store")
	must(t, os.MkdirAll(volume, 0o755))
	obstest.Folder(t, store)
	container := startWriter(t, docker, volume)
	p := startPlane(t)
	h := newHost(t, p, "file://"+store)
	h.addDocker("phone-1", docker.Host, container, volume)
	h.start(crashpoint.WriteStored + crashpoint.Before)
	_, _ = h.call(http.MethodPost, "/v1/instances/backup", "request-1", map[string]any{"instance_ids": []string{"phone-1"}})
	h.killed()
	if st := docker.State(t, container); !st.Paused {
		t.Fatalf("container %+v", st)
	}
	journal := filepath.Join(h.dir, "state", "journal.db")
	must(t, os.Truncate(journal, int64(3*os.Getpagesize())))

	h.start("")
	eventually(t, "the instance runs", func() bool { st := docker.State(t, container); return st.Running && !st.Paused })
	eventually(t, "the failure is told", func() bool { return len(p.got(failed)) == 1 })
	if left, err := filepath.Glob(journal + ".damaged-*"); err != nil || len(left) != 1 {
		t.Errorf("set aside: %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(base, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left beside the volume: %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(h.dir, "state", "held", "*")); err != nil || len(left) != 0 {
		t.Errorf("notes of held instances: %v, %v", left, err)
	}
	before := docker.State(t, container)
	if !before.Running {
		t.Errorf("container %+v", before)
	}
	h.backup("request-1", "phone-1") // the journal knows nothing of the first one
	// The killed job stored its backup, and nobody knows any more that the volume continues it.
	eventually(t, "the backup is told", func() bool { return len(p.got(completed)) == 1 })
	if f, _ := data(t, p.got(completed)[0].Event)["fork"].([]any); len(f) != 1 {
		t.Errorf("the report tells of the forks %v", f)
	}
	if st := docker.State(t, container); !st.Running {
		t.Errorf("before a decision about the fork the container is %+v", st)
	}
	eventually(t, "the instance is released", func() bool {
		// tried again: before the report is acknowledged it decides nothing
		_, _ = h.call(http.MethodPost, "/v1/agent/instances/phone-1/release", "request-2", nil)
		return len(p.got(released)) == 1
	})
	if d := differences(t, volume, h.restore("phone-1")); d != "" {
		t.Errorf("the backup differs from what the instance held:\n%s", d)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
