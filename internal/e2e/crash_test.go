package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/crashpoint"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// forward are the points that a job which goes well comes past.
func forward() []string {
	points := crashpoint.List()
	return points[:slices.Index(points, crashpoint.WriteDone+crashpoint.After)+1]
}

// TestKilledAtEachState kills the agent with SIGKILL at every point of the way of a job, starts
// it again and looks from outside: the job is finished or undone, and nothing is left behind.
func TestKilledAtEachState(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	mount := testbed.Btrfs(t)
	points := forward()
	// These are come past in the round of pre-copy first.
	for _, act := range []string{crashpoint.Snapshot, crashpoint.Upload, crashpoint.RemoveSnapshot} {
		points = append(points, act+crashpoint.Before+":2", act+crashpoint.After+":2")
	}
	t.Logf("%d points", len(points))
	for _, point := range points {
		t.Run(point, func(t *testing.T) { killedAt(t, docker, mount, point, false) })
	}
	// A job that can't succeed, since part of its storage is not in a snapshot, goes the way back.
	for _, act := range []string{crashpoint.WriteFailing, crashpoint.Thaw, crashpoint.WriteFailed} {
		for _, end := range []string{crashpoint.Before, crashpoint.After} {
			t.Run("undo/"+act+end, func(t *testing.T) { killedAt(t, docker, mount, act+end, true) })
		}
	}
}

func killedAt(t *testing.T, docker *testbed.Docker, mount, point string, undo bool) {
	base := filepath.Join(mount, strings.NewReplacer("/", "_", ":", "_").Replace(point))
	volume, store := filepath.Join(base, "data"), filepath.Join(t.TempDir(), "store")
	must(t, os.MkdirAll(volume, 0o755))
	obstest.Folder(t, store)
	fill(t, volume, 30)
	if undo {
		mounted(t, filepath.Join(volume, "nested"))
	}
	container := startWriter(t, docker, volume)
	p := startPlane(t)
	h := newHost(t, p, "file://"+store)
	h.addDocker("phone-1", docker.Host, container, volume)

	h.start(point)
	// The agent may die before it answers; the control plane then sends the same command again.
	_, _ = h.call(http.MethodPost, "/v1/instances/backup", "request-1", map[string]any{"instance_ids": []string{"phone-1"}})
	over := func() bool { return len(p.got(released))+len(p.got(failed)) > 0 }
	h.killed()
	// where the point is not one of the upload's, that may have been
	// at work; a store removes them when they are a day old
	cut := temporary(t, store)
	h.start("")
	task := h.backup("request-1", "phone-1")
	if again := h.backup("request-1", "phone-1"); again != task {
		t.Errorf("the same command gave tasks %s and %s", task, again)
	}
	status := 0
	eventually(t, "the job ends", func() bool {
		a, err := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "request-2", nil)
		if err != nil || len(a.Data.Jobs) != 1 {
			return false
		}
		status = a.Data.Jobs[0].Status
		return status != 1 && over()
	})

	st := docker.State(t, container)
	if undo && status == 2 {
		t.Error("the job succeeded without a part of the storage")
	}
	if status == 2 {
		if st.Running || len(p.got(completed)) == 0 || len(p.got(released)) == 0 {
			t.Errorf("succeeded, but container %+v, reports %v", st, p.got(""))
		}
		restored := h.restore("phone-1")
		if d := differences(t, volume, restored); d != "" {
			t.Errorf("the backup differs from what the instance held:\n%s", d)
		}
		h.cli("verify", "--read-data", "100")
	} else if !st.Running || st.Paused {
		t.Errorf("failed, but the container is %+v", st)
	}
	if left, err := filepath.Glob(filepath.Join(base, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left beside the volume: %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(h.dir, "state", "catalogues", "*", ".*")); err != nil || len(left) != 0 {
		t.Errorf("unfinished catalogues left: %v, %v", left, err)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left := temporary(t, store); !slices.Equal(left, cut) {
		t.Errorf("temporary files left: %v, and when it was killed: %v", left, cut)
	}
}

// temporary lists the unfinished files of a store in a folder.
func temporary(t *testing.T, store string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(store, ".tmp", "*"))
	must(t, err)
	return found
}
