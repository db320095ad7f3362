package agent_test

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/config"
	"holdfast/agent/engine"
	"holdfast/internal/testbed"
)

// TestVolumesAreTold: how a volume is read, and that its instance is held
// for the whole upload although the configuration says precopy, is told by
// the log of the start, by what operators ask, and by the report of the job.
func TestVolumesAreTold(t *testing.T) {
	disk, btrfs := testbed.Tmpfs(t, "size=32m"), testbed.Btrfs(t)
	h := newHost(t)
	image := filepath.Join(disk, "disk.img")
	other := filepath.Join(disk, "other.img")
	must(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(other, make([]byte, 1<<20), 0o600))
	h.volumeAt(image, "precopy") // neither snapshots nor a file system that tells what changed
	must(t, os.Mkdir(filepath.Join(btrfs, "data"), 0o755))
	for _, c := range []struct{ id, path, hold string }{
		{"phone-2", filepath.Join(btrfs, "data"), "precopy"}, {"phone-3", filepath.Join(disk, "absent"), "precopy"}, {"absent", other, "live"},
	} {
		h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/"+c.id)+", snapshot: freeze}]", "path: "+c.path+"}]\n    hold: "+c.hold, 1)
	}
	want := map[string]struct{ provider, means string }{
		"phone-1": {"freeze", "hold: precopy is of no use, since this storage makes no snapshots and does not tell what changed: the instance is held for the whole upload"},
		"phone-2": {"btrfs", "a snapshot is read; the instance is held while the snapshot is made"},
		"phone-3": {"", "no such file"},
		"absent":  {"freeze", "no backup can be made: hold is live"},
	}
	cfg, err := config.Parse([]byte(h.cfg), "test.yaml")
	must(t, err)
	views := engine.LookAtVolumes(t.Context(), cfg)
	if len(views) != len(want) {
		t.Errorf("%d volumes: %+v", len(views), views)
	}
	for _, v := range views {
		w := want[v.Instance]
		if v.Volume != "data" || v.Provider != w.provider || !strings.Contains(v.Means, w.means) || v.Warn != (v.Instance == "phone-1" || v.Instance == "absent") {
			t.Errorf("%+v, want %+v", v, w)
		}
	}
	h.start()
	h.settled(t)
	list, err := h.operator().Instances(t.Context())
	must(t, err)
	for _, i := range list {
		if w, v := want[i.ID], i.Volumes[0]; v.Provider != w.provider || !strings.Contains(v.Means, w.means) {
			t.Errorf("%s: %+v, want %+v", i.ID, v, w)
		}
	}
	if log := h.logs.String(); !strings.Contains(log, `level=WARN msg="how a volume is read" instance=phone-1`) || !strings.Contains(log, `level=INFO msg="how a volume is read" instance=phone-2`) {
		t.Error("the log does not tell how volumes are read")
	}
	h.backup("acme", "r1", "phone-1")
	data := h.ended("holdfast.backup.completed")
	volumes, _ := data["volumes"].([]any)
	if len(volumes) != 1 {
		t.Fatalf("the report has %v", data)
	}
	if v, _ := volumes[0].(map[string]any); v["volume"] != "data" || v["provider"] != "freeze" || v["in_place"] != true || v["held"] != "while the volume is read, from the first byte to the last" {
		t.Errorf("the report has %v", v)
	}
}

// TestTenantsReadNothingOfTheHost: whatever fails, a tenant finds neither the store's address
// nor a path of the host in the answers that it can get; an operator finds the reason.
func TestTenantsReadNothingOfTheHost(t *testing.T) {
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "auto_create: true", "auto_create: false", 1)
	h.start()
	zero := uint64(0)
	task := h.backup("acme", "r1", "phone-1")
	h.eventually("failed", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
	paths := []string{"/v1/instances/tasks/" + task, "/v1/agent/tasks/" + task, "/v1/agent/jobs", "/v1/agent/info"}
	told := map[string]string{}
	for _, who := range []string{"acme", ""} {
		for _, path := range paths {
			told[who] += string(h.call("GET", path, who, "r2", "").Data)
		}
		told[who] += h.stream("/v1/agent/tasks/"+task+"/events", who, "")
	}
	for _, e := range h.collect(&zero, "holdfast.backup.failed", "phone-1") {
		told[""] += string(e.Data)
	}
	told["acme"] += h.stream("/v1/agent/events", "acme", "holdfast.backup.failed")
	for _, secret := range []string{h.dir, "file://", "host.key", "name.key", "vault create"} {
		if strings.Contains(told["acme"], secret) {
			t.Errorf("the tenant reads %q: %s", secret, told["acme"])
		}
		if !strings.Contains(told[""], secret) {
			t.Errorf("the operator does not read %q: nothing was looked at", secret)
		}
	}
	if !strings.Contains(told["acme"], "the operator of the host can see the rest)") {
		t.Errorf("the tenant reads %s", told["acme"])
	}
}

// stream reads a stream over the network, until it ends or has the text.
func (h *host) stream(path, tenant, until string) string {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "https://"+h.agent.Addr()+path, nil)
	must(h.t, err)
	r.Header.Set("X-Auth-Token", h.tokens[tenant])
	r.Header.Set("X-Request-Id", "stream")
	r.Header.Set("Last-Event-ID", "0")
	resp, err := h.client.Do(r)
	must(h.t, err)
	defer resp.Body.Close()
	var read strings.Builder
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		read.WriteString(lines.Text())
		if until != "" && strings.Contains(lines.Text(), until) {
			break
		}
	}
	return read.String()
}
