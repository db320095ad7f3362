package e2e_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

const (
	restoreStarted   = "holdfast.restore.started"
	restoreCompleted = "holdfast.restore.completed"
	restoreFailed    = "holdfast.restore.failed"

	preparePath  = "/v1/instances/prepare"
	progressPath = "/v1/instances/prepare-progress"
	statusPath   = "/v1/instances/batch-query-status"
)

// second is another host of the same fleet: the same store and key, and nothing else of the first.
func second(t *testing.T, first *host) *host {
	t.Helper()
	store := filepath.Join(t.TempDir(), "not used")
	obstest.Folder(t, store)
	h := newHost(t, first.plane, "file://"+store, first.env...)
	h.store, h.key = first.store, first.key
	return h
}

// secondAlone is second with a copy of the store of its own, as the only host that
// prepares from there: claims of other hosts stand in nobody's way.
func secondAlone(t *testing.T, first *host) *host {
	t.Helper()
	h := second(t, first)
	store := filepath.Join(t.TempDir(), "store")
	if out, err := exec.Command("cp", "-a", strings.TrimPrefix(first.store, "file://"), store).CombinedOutput(); err != nil {
		t.Fatalf("copy the store: %v\n%s", err, out)
	}
	h.store = "file://" + store
	return h
}

// claims lists the objects of the claims on an instance in the host's store, which is a folder.
func (h *host) claims(instance string) []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(strings.TrimPrefix(h.store, "file://"), "*", "claims", instance, "*"))
	must(h.t, err)
	return found
}

// instanceStatus asks batch-query-status for one instance.
func (h *host) instanceStatus(id string) int {
	h.t.Helper()
	a, raw, _ := h.send(http.MethodPost, statusPath, as(token, "q"), fmt.Sprintf(`{"instance_ids":[%q]}`, id))
	var got struct {
		Results []struct {
			ID     string `json:"instance_id"`
			Status int    `json:"status"`
		} `json:"status_results"`
	}
	if err := json.Unmarshal([]byte(raw), &got); err != nil || a.Code != "0" || len(got.Results) != 1 || got.Results[0].ID != id {
		h.t.Fatalf("batch-query-status: %s", raw)
	}
	return got.Results[0].Status
}

// progress asks prepare-progress.
func (h *host) progress(id string) int {
	h.t.Helper()
	a, raw, _ := h.send(http.MethodPost, progressPath, as(token, "q"), fmt.Sprintf(`{"user_id":"u","instance_id":%q}`, id))
	var got struct {
		Data struct {
			Status       *int `json:"status"`
			WaitingCount *int `json:"waitingCount"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(raw), &got); err != nil || a.Code != "0" || got.Data.Status == nil || got.Data.WaitingCount == nil {
		h.t.Fatalf("prepare-progress: %s", raw)
	}
	return *got.Data.Status
}

// prepare commands a restore and returns the answer.
func (h *host) prepare(requestID string, ids ...string) (answer, string) {
	h.t.Helper()
	body, err := json.Marshal(map[string]any{"user_id": "u", "instance_ids": ids})
	must(h.t, err)
	a, raw, _ := h.send(http.MethodPost, preparePath, as(token, requestID), string(body))
	return a, raw
}

func (h *host) ended(task string) (status int, why string) {
	h.t.Helper()
	eventually(h.t, "the job ends", func() bool {
		a, _, _ := h.send(http.MethodGet, taskPath+task, as(token, "q"), "")
		if len(a.Data.Jobs) != 1 {
			return false
		}
		status, why = a.Data.Jobs[0].Status, a.Data.Jobs[0].ExecuteMsg
		return status != 1
	})
	return status, why
}

func (h *host) wants(what string, progress, status int) {
	h.t.Helper()
	if p, s := h.progress("phone-1"), h.instanceStatus("phone-1"); p != progress || s != status {
		h.t.Errorf("%s prepare-progress says %d and batch-query-status %d, want %d and %d", what, p, s, progress, status)
	}
}

// TestPrepare: an instance is backed up and released on one host, and
// comes back on another with other paths, is started with its data, and
// is backed up again from there without being read. Every part is real.
func TestPrepare(t *testing.T) {
	needs(t)
	minio := testbed.StartMinIO(t)
	docker := testbed.StartDocker(t)
	mount := testbed.Btrfs(t)
	volume := filepath.Join(mount, "phone-1", "data")
	must(t, os.Mkdir(filepath.Dir(volume), 0o755))
	if out, err := exec.Command("btrfs", "subvolume", "create", volume).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fill(t, volume, 300)
	const large = 48 << 20
	content := make([]byte, large)
	_, _ = rand.Read(content)
	must(t, os.WriteFile(filepath.Join(volume, "large"), content, 0o600))
	container := startWriter(t, docker, volume)

	p := startPlane(t)
	a := newHost(t, p, minio.URL(minio.Bucket(t), "prod"), minio.Env()...)
	a.addDocker("phone-1", docker.Host, container, volume)
	a.start("")
	if status, why := a.ended(a.backup("backup-1", "phone-1")); status != 2 {
		t.Fatal(why)
	}
	a.wants("after the release", 2, 0)
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	b := second(t, a)
	home := filepath.Join(mount, "b", "volumes")
	must(t, os.MkdirAll(home, 0o755))
	there := filepath.Join(home, "one")
	comeBack := docker.Create(t, testbed.Container{Image: "writer:test", Command: []string{"/writer"}, Binds: []string{there + ":/data"}})
	b.addDocker("phone-1", docker.Host, comeBack, there)
	b.addFolder("phone-2", tenant, true)
	b.allow(otherToken, "tenant="+otherTenant+" role=tenant")
	b.extra = "prepare: {start: true}"
	b.start("")
	b.wants("before anything", 2, 0)
	if got, raw, _ := b.send(http.MethodPost, backupPath, as(token, "x"), `{"instance_ids":["phone-2"]}`); got.Code != codes+"5005" {
		t.Errorf("a backup without its storage: %s", raw)
	}
	for _, path := range []string{preparePath, statusPath} {
		if got, raw, _ := b.send(http.MethodPost, path, as(otherToken, "x"), `{"instance_ids":["phone-1"]}`); got.Code != codes+"1001" {
			t.Errorf("%s by another tenant: %s", path, raw)
		}
	}
	if got, raw, _ := b.send(http.MethodPost, progressPath, as(otherToken, "x"), `{"instance_id":"phone-1"}`); got.Code != codes+"1001" {
		t.Errorf("prepare-progress by another tenant: %s", raw)
	}

	got, raw := b.prepare("prepare-1", "phone-1")
	if got.Code != "0" || got.Data.TaskID == "" || !strings.Contains(raw, `"status_list":[{"instance_id":"phone-1","status":1}]`) {
		t.Fatalf("prepare: %s", raw)
	}
	seen := map[int]bool{b.progress("phone-1"): true}
	if s := b.instanceStatus("phone-1"); s != 1 {
		t.Errorf("batch-query-status while it is restored: %d", s)
	}
	if again, raw := b.prepare("prepare-1", "phone-1"); again.Data.TaskID != got.Data.TaskID {
		t.Errorf("the same command: %s", raw)
	}
	if other, raw := b.prepare("prepare-2", "phone-1"); other.Code != codes+"2005" {
		t.Errorf("a second prepare meanwhile: %s", raw)
	}
	eventually(t, "prepare-progress says 0", func() bool {
		s := b.progress("phone-1")
		seen[s] = true
		return s == 0
	})
	if !seen[1] && !seen[2] || seen[-1] || seen[3] {
		t.Errorf("prepare-progress said %v", seen)
	}
	b.wants("after the restore", 0, 2)
	if st := docker.State(t, comeBack); !st.Running {
		t.Errorf("the instance is %+v", st)
	}
	var st unix.Stat_t
	must(t, unix.Stat(there, &st))
	if st.Ino != 256 {
		t.Error("the volume is no subvolume")
	}
	for _, line := range strings.Split(strings.TrimSpace(differences(t, volume, there)), "\n") {
		if line != "" && !strings.HasSuffix(line, " records") {
			t.Errorf("not as it was: %s", line)
		}
	}
	before, err := os.ReadFile(filepath.Join(volume, "records"))
	must(t, err)
	if now, err := os.ReadFile(filepath.Join(there, "records")); err != nil || !strings.HasPrefix(string(now), string(before)) {
		t.Errorf("the instance's records are gone (%v)", err)
	}
	eventually(t, "the reports", func() bool { return len(p.got(restoreStarted)) == 1 && len(p.got(restoreCompleted)) == 1 })
	if d := data(t, p.got(restoreCompleted)[0].Event); d["bytes_restored"].(float64) < large || d["backup_id"] == "" {
		t.Errorf("completed: %v", d)
	}
	if left := hidden(t, home); len(left) != 0 || len(snapshotsIn(t, home)) != 1 {
		t.Errorf("left beside the volume: %v, bases %v", left, snapshotsIn(t, home))
	}
	// It runs with its data, so a prepare has nothing to do.
	again, _ := b.prepare("prepare-3", "phone-1")
	if status, why := b.ended(again.Data.TaskID); status != 2 || !strings.Contains(why, "was ready already") {
		t.Errorf("prepare of an instance that runs: %d, %s", status, why)
	}

	// Files that changed within two seconds before a backup
	// begins are read in any case, also restored files.
	time.Sleep(2500 * time.Millisecond)
	acknowledge := make(chan struct{})
	p.setAnswer(func(e model.Event) int {
		if e.Type == completed {
			<-acknowledge
		}
		return http.StatusOK
	})
	task := b.backup("backup-2", "phone-1")
	b.wants("during a backup", 3, 4)
	if other, raw := b.prepare("prepare-4", "phone-1"); other.Code != codes+"2006" {
		t.Errorf("a prepare during a backup: %s", raw)
	}
	close(acknowledge)
	if status, why := b.ended(task); status != 2 {
		t.Errorf("the backup after the restore: %s", why)
	}
	reports := p.got(completed)
	d := data(t, reports[len(reports)-1].Event)
	if read, all := d["bytes_read"].(float64), d["bytes"].(float64); all < large || read > large/20 {
		t.Errorf("the next backup read %.0f of %.0f bytes", read, all)
	} else {
		t.Logf("the next backup read %.0f of %.0f bytes", read, all)
	}
	b.wants("after the second release", 2, 0)
	if left := snapshotsIn(t, home); len(left) != 0 {
		t.Errorf("bases after the release: %v", left)
	}

	none, _ := b.prepare("prepare-5", "phone-2")
	if status, why := b.ended(none.Data.TaskID); status != -1 || !strings.Contains(why, "the vault has no backup of this instance") {
		t.Errorf("prepare without a backup: %d, %s", status, why)
	}
	if p, s := b.progress("phone-2"), b.instanceStatus("phone-2"); p != -1 || s != 6 {
		t.Errorf("after a restore that failed: %d and %d", p, s)
	}
	eventually(t, "the failure is reported", func() bool { return len(p.got(restoreFailed)) == 1 })
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// keptIn lists the replaced and kept volumes of a restore in a folder of volumes.
func keptIn(t *testing.T, dir string) []string {
	t.Helper()
	kept, err := filepath.Glob(filepath.Join(dir, ".holdfast-kept-*"))
	must(t, err)
	return kept
}

// hidden lists the leftovers of a restore in a folder of
// volumes, without snapshots and without kept volumes.
func hidden(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".*holdfast-*"))
	must(t, err)
	return slices.DeleteFunc(left, func(path string) bool {
		return filepath.Base(path) == ".holdfast-snapshots" || strings.HasPrefix(filepath.Base(path), ".holdfast-kept-")
	})
}

// snapshotsIn lists the snapshots of a folder of volumes.
func snapshotsIn(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".holdfast-snapshots", "*"))
	must(t, err)
	return left
}

// TestRestoreKilledAtEachState kills the agent at every point of a restore over an older state, and
// starts it again: the instance has the volumes of the backup, all of them, and nothing is left.
func TestRestoreKilledAtEachState(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	mount := testbed.Btrfs(t)
	p, a := twoVolumes(t, mount)
	want := filepath.Join(mount, "a")
	var points []string
	for _, act := range []string{
		crashpoint.WriteTask, crashpoint.WriteRestoring, crashpoint.Restore, crashpoint.WritePlacing, crashpoint.Snapshot, crashpoint.Place,
		crashpoint.WriteRestored, crashpoint.SetAside, crashpoint.WriteStarting, crashpoint.Start, crashpoint.WriteDone,
	} {
		points = append(points, act+crashpoint.Before, act+crashpoint.After)
	}
	points = append(points, crashpoint.Snapshot+crashpoint.After+":2", crashpoint.Place+crashpoint.After+":2", crashpoint.SetAside+crashpoint.Before+":2")
	t.Logf("%d points", len(points))
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			dir := filepath.Join(mount, strings.ReplaceAll(point, ":", "_"))
			old(t, dir)
			b := secondAlone(t, a)
			b.plane = p
			container := docker.Create(t, testbed.Container{Command: []string{"/bin/busybox", "sleep", "1000"}, Binds: []string{dir + "/data:/data"}})
			b.addTwo(fmt.Sprintf(`{docker: {container: %s, host: "%s"}}`, container, docker.Host), dir)
			b.extra = "prepare: {start: true}"
			b.start(point)
			// The agent may die before it answers; the control plane
			// then sends the same command again.
			_, _ = b.call(http.MethodPost, preparePath, "prepare-1", map[string]any{"user_id": "u", "instance_ids": []string{"phone-1"}})
			b.killed()
			b.start("")
			got, raw := b.prepare("prepare-1", "phone-1")
			if got.Code != "0" {
				t.Fatal(raw)
			}
			if status, why := b.ended(got.Data.TaskID); status != 2 {
				t.Errorf("ended %d, %s", status, why)
			}
			for _, v := range []string{"data", "media"} {
				if d := differences(t, filepath.Join(want, v), filepath.Join(dir, v)); d != "" {
					t.Errorf("%s is not as it was backed up:\n%s", v, d)
				}
			}
			if st := docker.State(t, container); !st.Running {
				t.Errorf("the instance is %+v", st)
			}
			if left := hidden(t, dir); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			kept := keptIn(t, dir)
			if len(kept) != 2 {
				t.Errorf("kept: %v", kept)
			}
			for _, path := range kept {
				v := path[strings.LastIndex(path, "-")+1:]
				if c, err := os.ReadFile(filepath.Join(path, "old")); err != nil || string(c) != v {
					t.Errorf("%s holds %q, %v", path, c, err)
				}
			}
			bases := snapshotsIn(t, dir)
			if len(bases) != 2 {
				t.Errorf("bases: %v", bases)
			}
			for _, base := range bases {
				v := strings.TrimPrefix(filepath.Ext(base), ".")
				if d := differences(t, filepath.Join(want, v), base); d != "" {
					t.Errorf("the base of %s is not as it was backed up:\n%s", v, d)
				}
			}
			if code := b.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if c := b.claims("phone-1"); len(c) != 1 {
				t.Errorf("the host that has the instance claims it by %v", c)
			}
		})
	}
	// One volume can't be put into place, since something was mounted
	// there meanwhile: the other one comes out again.
	undo := []string{
		crashpoint.PutBack + crashpoint.Before, crashpoint.PutBack + crashpoint.After, crashpoint.RemoveSnapshot + crashpoint.Before,
		crashpoint.RemoveSnapshot + crashpoint.After, crashpoint.WriteFailed + crashpoint.Before,
	}
	for _, point := range undo {
		t.Run("undo/"+point, func(t *testing.T) {
			dir := filepath.Join(mount, "undo-"+point)
			old(t, dir)
			b := secondAlone(t, a)
			b.plane = p
			// Without a runtime that tells of its state, content is never replaced.
			container := docker.Create(t, testbed.Container{Command: []string{"/bin/busybox", "sleep", "1000"}, Binds: []string{dir + "/data:/data"}})
			b.addTwo(fmt.Sprintf(`{docker: {container: %s, host: "%s"}}`, container, docker.Host), dir)
			b.start(crashpoint.WritePlacing + crashpoint.After)
			_, _ = b.call(http.MethodPost, preparePath, "prepare-1", map[string]any{"user_id": "u", "instance_ids": []string{"phone-1"}})
			b.killed()
			media := filepath.Join(dir, "media")
			must(t, unix.Mount(media, media, "", unix.MS_BIND, ""))
			defer func() { must(t, unix.Unmount(media, 0)) }()
			b.launch(point)
			b.killed()
			b.start("")
			got, raw := b.prepare("prepare-1", "phone-1")
			if got.Code != "0" {
				t.Fatal(raw)
			}
			if status, why := b.ended(got.Data.TaskID); status != -1 || !strings.Contains(why, "busy") {
				t.Errorf("ended %d, %s", status, why)
			}
			for _, v := range []string{"data", "media"} {
				if c, err := os.ReadFile(filepath.Join(dir, v, "old")); err != nil || string(c) != v {
					t.Errorf("%s did not come back: %q, %v", v, c, err)
				}
			}
			if left := slices.Concat(hidden(t, dir), snapshotsIn(t, dir), keptIn(t, dir)); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			eventually(t, "the host lets go of the claim", func() bool { return len(b.claims("phone-1")) == 0 })
			if code := b.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
	if e := p.got(restoreCompleted); len(e) != len(points) || len(p.got(restoreFailed)) != len(undo) {
		t.Errorf("%d restores were reported as completed, %d as failed", len(e), len(p.got(restoreFailed)))
	}
	ids := map[string]int{}
	for _, e := range slices.Concat(p.got(restoreStarted), p.got(restoreCompleted), p.got(restoreFailed)) {
		ids[e.Type]++
	}
	t.Logf("reports: %v", ids)
}

// addTwo adds phone-1 with two volumes.
func (h *host) addTwo(runtime, dir string) {
	fmt.Fprintf(&h.instances, `
  - id: phone-1
    tenant: "%s"
    runtime: %s
    volumes: [{name: data, path: %s/data}, {name: media, path: %[3]s/media}]
`, tenant, runtime, dir)
}

// old makes both volumes with something else than the backup.
func old(t *testing.T, dir string) {
	t.Helper()
	for _, v := range []string{"data", "media"} {
		must(t, os.MkdirAll(filepath.Join(dir, v), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, v, "old"), []byte(v), 0o600))
	}
}

// twoVolumes backs up an instance with two volumes, in the folder a of mount, to a file store.
func twoVolumes(t *testing.T, mount string) (*plane, *host) {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	p := startPlane(t)
	a := newHost(t, p, "file://"+store)
	dir := filepath.Join(mount, "a")
	for _, v := range []string{"data", "media"} {
		must(t, os.MkdirAll(filepath.Join(dir, v), 0o755))
		fill(t, filepath.Join(dir, v), 40)
	}
	a.addTwo("{none: {}}", dir)
	a.start("")
	if status, why := a.ended(a.backup("backup-1", "phone-1")); status != 2 {
		t.Fatal(why)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	return p, a
}
