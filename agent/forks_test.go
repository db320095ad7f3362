package agent_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
)

// beside is another host on the store of this one, with the same instances and keys.
func (h *host) beside() *host {
	h.t.Helper()
	b := newHost(h.t)
	b.cfg = strings.NewReplacer("host_id: host-1", "host_id: host-2", "file://"+b.in("store"), "file://"+h.in("store")).Replace(b.cfg)
	for _, name := range []string{"host.key", "name.key"} {
		key, err := os.ReadFile(h.in(name))
		if err != nil {
			h.t.Fatal(err)
		}
		b.write(name, string(key), 0o600)
	}
	return b
}

// runs lets phone-1 run on a host with that content, and backs it up. The answer is the report.
func (h *host) runs(request, content string) (done completed) {
	h.t.Helper()
	h.write("phone-1.state", "running\n", 0o600)
	h.write("volumes/phone-1/data/file", content, 0o640)
	h.plane.mu.Lock()
	h.plane.events = nil
	h.plane.mu.Unlock()
	h.backup("acme", request, "phone-1")
	h.eventually("the report of "+request, func() bool {
		e := h.plane.took("holdfast.backup.completed", "phone-1")
		return e != nil && json.Unmarshal(e.Data, &done) == nil && done.Job == h.job(request, "phone-1")
	})
	return done
}

// completed is the part of a report of a backup or of a restore that the tests look at.
type completed struct {
	Job    string `json:"job_id"`
	Backup string `json:"backup_id"`
	Parent string `json:"parent"`
	// of a restore
	Warning string `json:"warning"`
	Fork    []struct {
		Backup string `json:"backup"`
		Host   string `json:"host"`
	} `json:"fork"`
}

// job is the job of a request, which the same request gives again.
func (h *host) job(request, id string) string {
	h.t.Helper()
	a := h.call(http.MethodPost, "/v1/instances/backup", "acme", request, fmt.Sprintf(`{"instance_ids":[%q]}`, id))
	var data api.TaskAnswer
	if a.Code != api.CodeOK || json.Unmarshal(a.Data, &data) != nil || len(data.Jobs) != 1 {
		h.t.Fatalf("backup: %+v", a)
	}
	return data.Jobs[0].Job
}

// released waits for the end of the job of phone-1, with a release.
func (h *host) released() {
	h.t.Helper()
	h.eventually("phone-1 is released", func() bool {
		a := h.call(http.MethodGet, "/v1/agent/jobs?instance=phone-1&active=true", "", "r", "")
		return string(a.Data) == `{"jobs":[]}` && h.state("phone-1") == "stopped"
	})
}

// prepares commands a restore of phone-1, and gives the data of its last event, or why it failed.
func (h *host) prepares(request string) (kind string, done completed, reason string) {
	h.t.Helper()
	h.plane.mu.Lock()
	h.plane.events = nil
	h.plane.mu.Unlock()
	a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", request, `{"instance_ids":["phone-1"]}`)
	if a.Code != api.CodeOK {
		return a.Code, done, a.Msg
	}
	h.eventually("the end of "+request, func() bool {
		for _, kind = range []string{"holdfast.restore.completed", "holdfast.restore.failed"} {
			if e := h.plane.took(kind, "phone-1"); e != nil {
				var why struct{ Reason string }
				if json.Unmarshal(e.Data, &done) != nil || json.Unmarshal(e.Data, &why) != nil {
					return false
				}
				reason = why.Reason
				return true
			}
		}
		return false
	})
	return kind, done, reason
}

// claimsOn are the objects of the claims on an instance in the store of the hosts.
func (h *host) claimsOn(id string) []string {
	h.t.Helper()
	_, folder, _ := strings.Cut(h.cfg, "file://")
	folder, _, _ = strings.Cut(folder, "\"")
	found, err := filepath.Glob(filepath.Join(folder, "*/claims", id, "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// TestDoublePrepareIsNoticed: an instance that one host has prepared
// is refused to a second host, with the name of the first, until the
// first has released it; the report of the release comes after that.
// Where the host with the claim is gone, the report tells of the takeover.
func TestDoublePrepareIsNoticed(t *testing.T) {
	a := newHost(t)
	b := a.beside()
	a.start()
	b.start()
	first := a.runs("r1", "at first")
	a.released()
	for _, h := range []*host{a, b} {
		h.write("phone-1.state", "stopped\n", 0o600)
		if err := os.RemoveAll(h.in("volumes/phone-1")); err != nil {
			t.Fatal(err)
		}
	}
	if kind, done, reason := a.prepares("p1"); kind != "holdfast.restore.completed" || done.Backup != first.Backup {
		t.Fatalf("prepare on A: %s, %s", kind, reason)
	}
	if code, _, msg := b.prepares("p2"); code != api.CodeInRecovery || !strings.Contains(msg, `instance "phone-1": host "host-1" has claimed it`) {
		t.Errorf("prepare on B, while A has it: %s, %s", code, msg)
	}
	if _, err := os.Stat(b.in("volumes/phone-1")); err == nil {
		t.Error("a volume was restored to B")
	}
	if kind, _, reason := a.prepares("p3"); kind != "holdfast.restore.completed" {
		t.Errorf("prepare on A again: %s, %s", kind, reason)
	}
	last := a.runs("r2", "what A did")
	if last.Parent != first.Backup || len(last.Fork) > 0 {
		t.Errorf("the backup of A: %+v", last)
	}
	a.eventually("the release is reported", func() bool { return a.plane.took("holdfast.instance.released", "phone-1") != nil })
	if left := a.claimsOn("phone-1"); len(left) > 0 {
		t.Errorf("the release is reported, and the claim stands: %v", left)
	}
	if kind, done, reason := b.prepares("p4"); kind != "holdfast.restore.completed" || done.Backup != last.Backup || done.Parent != first.Backup {
		t.Errorf("prepare on B, after the release: %s, %+v, %s", kind, done, reason)
	}
	// B is gone, and its last sign of life is two hours old.
	b.stop()
	old := time.Now().Add(-2 * time.Hour)
	for _, claim := range a.claimsOn("phone-1") {
		must(t, os.Chtimes(claim, old, old))
	}
	if kind, done, reason := a.prepares("p5"); kind != "holdfast.restore.completed" || !strings.Contains(done.Warning, "the claim of host-2 was taken over") {
		t.Errorf("prepare on A, while B is gone: %s, %+v, %s", kind, done, reason)
	}
	if log := a.logs.String(); !strings.Contains(log, "the claim of a host that gives no sign of life is taken over") {
		t.Error("the log does not tell of the claim that was taken over")
	}
}

// TestTwoHostsFork: the same instance is prepared on two hosts, and both run and
// back it up. The second backup tells of the first, its instance is held, no
// host restores any more, and after the decision the accepted branch goes on.
// The host of the other branch is refused, and its next backup is a fork again.
func TestTwoHostsFork(t *testing.T) {
	a := newHost(t)
	a.cfg += "release: control-plane\n"
	b := a.beside()
	b.cfg += "release: control-plane\n"
	a.start()
	b.start()
	first := a.runs("r1", "at first")
	if first.Parent != "" || len(first.Fork) > 0 {
		t.Errorf("the first backup: %+v", first)
	}
	// A holds its backup unreleased while B is prepared from it, and is resumed then.
	if err := os.RemoveAll(b.in("volumes/phone-1")); err != nil {
		t.Fatal(err)
	}
	b.write("phone-1.state", "stopped\n", 0o600)
	if kind, done, reason := b.prepares("p1"); kind != "holdfast.restore.completed" || done.Backup != first.Backup {
		t.Fatalf("prepare on B: %s, %+v, %s", kind, done, reason)
	}
	if err := a.operator().Resume(t.Context(), "phone-1"); err != nil {
		t.Fatal(err)
	}
	a.eventually("A runs", func() bool { return a.state("phone-1") == "running" })
	ofB := b.runs("r2", "what B did")
	if ofB.Parent != first.Backup || len(ofB.Fork) > 0 {
		t.Errorf("the backup of B: %+v", ofB)
	}
	if err := b.operator().Release(t.Context(), "phone-1"); err != nil {
		t.Fatal(err)
	}
	b.released()
	ofA := a.runs("r3", "what A did")
	if ofA.Parent != first.Backup || len(ofA.Fork) != 1 || ofA.Fork[0].Backup != ofB.Backup || ofA.Fork[0].Host != "host-2" {
		t.Errorf("the backup of A: %+v", ofA)
	}
	if out := a.status(t); !strings.Contains(out, "fork_undecided") || !strings.Contains(out, ofB.Backup) {
		t.Errorf("status of A:\n%s", out)
	}
	kind, _, reason := b.prepares("p2")
	if kind != "holdfast.restore.failed" || !strings.Contains(reason, ofA.Backup) || !strings.Contains(reason, ofB.Backup) {
		t.Errorf("prepare while nobody has decided: %s, %s", kind, reason)
	}
	// The report told of the fork, so the release decides.
	if err := a.operator().Release(t.Context(), "phone-1"); err != nil {
		t.Fatal(err)
	}
	a.released()
	kind, _, reason = b.prepares("p3")
	if kind != "holdfast.restore.failed" || !strings.Contains(reason, ofA.Backup) || !strings.Contains(reason, ofB.Backup) {
		t.Errorf("prepare on B, of which the bytes are of the other branch: %s, %s", kind, reason)
	}
	got, err := os.ReadFile(b.in("volumes/phone-1/data/file"))
	if err != nil || string(got) != "what B did" {
		t.Errorf("B has %q, %v", got, err)
	}
	if left := b.claimsOn("phone-1"); len(left) > 0 {
		t.Errorf("claims that are left after the releases and the refused restores: %v", left)
	}
	again := b.runs("r4", "what B did later")
	if again.Parent != ofB.Backup || len(again.Fork) != 1 || again.Fork[0].Backup != ofA.Backup || again.Fork[0].Host != "host-1" {
		t.Errorf("B goes on: %+v", again)
	}
	// An operator takes the branch of A all the same: the bytes of B are in the vault.
	if err := b.operator().AcceptFork(t.Context(), "phone-1", ofB.Backup+"0", false); err == nil {
		t.Error("a backup that is not there is accepted")
	}
	if err := b.operator().AcceptFork(t.Context(), "phone-1", ofA.Backup, false); err != nil {
		t.Fatal(err)
	}
	if err := b.operator().Release(t.Context(), "phone-1"); err != nil {
		t.Fatal(err)
	}
	b.released()
	if err := os.RemoveAll(a.in("volumes/phone-1")); err != nil {
		t.Fatal(err)
	}
	if kind, done, reason := a.prepares("p4"); kind != "holdfast.restore.completed" || done.Backup != ofA.Backup || done.Parent != first.Backup {
		t.Errorf("prepare on A: %s, %+v, %s", kind, done, reason)
	}
	got, err = os.ReadFile(a.in("volumes/phone-1/data/file"))
	if err != nil || string(got) != "what A did" {
		t.Errorf("A has %q, %v", got, err)
	}
}
