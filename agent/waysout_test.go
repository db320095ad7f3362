package agent_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// strange writes a state that no program knows into the record of the unfinished
// job of an instance. The journal has no sums over its records. No agent runs.
func (h *host) strange(t *testing.T, id string) {
	t.Helper()
	path := h.in("state/journal.db")
	old, err := os.ReadFile(path)
	must(t, err)
	record := regexp.MustCompile(`("instance":"` + id + `"[^{}]{1,200}"state":)"acknowledged"`)
	changed := record.ReplaceAll(old, []byte(`$1"resharding00"`))
	if bytes.Equal(old, changed) {
		t.Fatalf("the job of %s is not acknowledged", id)
	}
	must(t, os.WriteFile(path, changed, 0o600))
}

// heldStored brings instances into a hold with a stored and acknowledged backup.
func (h *host) heldStored(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		h.operate(t, id)
		h.stage(id, "acknowledged")
	}
}

// over waits until the instance has no unfinished job, and returns the last job.
func (h *host) over(id string) api.JobInfo {
	h.t.Helper()
	var last api.JobInfo
	h.eventually("the job of "+id+" is over", func() bool {
		jobs, err := h.operator().Jobs(h.t.Context(), api.JobFilter{InstanceID: id, Limit: 1})
		if err != nil || len(jobs) != 1 {
			return false
		}
		last = jobs[0]
		return !last.Ended.IsZero()
	})
	return last
}

// TestUnknownRecordIsLoudAndAlone: a job whose state the program does not know is
// told of everywhere, its instance stays as it is, and the job of another instance,
// and new commands, go on. The agent is healthy and ready, since a new start mends
// nothing. An operator gives the job up, and the instance can be backed up again.
func TestUnknownRecordIsLoudAndAlone(t *testing.T) {
	h := newHost(t)
	h.cfg += unbraked + "release: control-plane\n"
	h.start()
	h.heldStored(t, "phone-1", "phone-2")
	h.stop()
	h.strange(t, "phone-1")
	h.start()
	h.agent.ShowAtOnce()
	if log := h.logs.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "a record of the journal can't be understood") || !strings.Contains(log, `state \"resharding00\"`) {
		t.Error("the log has no error of it")
	}
	info, err := h.operator().Info(t.Context())
	must(t, err)
	trouble := info.Trouble("record_unknown")
	if trouble == nil || trouble.InstanceID != "phone-1" || !strings.Contains(trouble.Hint, "holdfast abandon") {
		t.Errorf("the status has %+v", info.Troubles)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := h.get(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if _, page := h.get("/metrics"); !strings.Contains(page, `holdfast_troubles{name="record_unknown"} 1`) {
		t.Error("no metric tells of it")
	}
	must(t, h.operator().Release(t.Context(), "phone-2"))
	if j := h.over("phone-2"); j.Stage != "done" || h.state("phone-2") != "stopped" {
		t.Errorf("the job of another instance ends as %s", j.Stage)
	}
	jobs, err := h.operator().Jobs(t.Context(), api.JobFilter{InstanceID: "phone-1", Active: true})
	must(t, err)
	if len(jobs) != 1 || jobs[0].Stage != "unknown" || h.state("phone-1") != "frozen" {
		t.Fatalf("its own job: %+v, the instance is %s", jobs, h.state("phone-1"))
	}
	done, err := h.operator().Abandon(t.Context(), "phone-1", jobs[0].JobID)
	if err != nil || !done.Ended || !strings.Contains(done.Message, "leaves the instance as it is") || h.state("phone-1") != "frozen" {
		t.Errorf("given up: %+v, %v, the instance is %s", done, err, h.state("phone-1"))
	}
	h.eventually("the control plane is told", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
	if info, err = h.operator().Info(t.Context()); err != nil || info.Trouble("record_unknown") != nil {
		t.Errorf("after it: %+v, %v", info.Troubles, err)
	}
	h.write("phone-1.state", "running\n", 0o600) // by the operator's hand
	_, err = h.operator().Backup(t.Context(), "again", []string{"phone-1"})
	must(t, err)
	h.stage("phone-1", "acknowledged")
}

// TestAcceptLoss goes the whole way with a real store: a newest backup
// that somebody deletes on purpose fails each prepare, is shown, and after
// the operator's word the older backup comes back. The word is audited.
func TestAcceptLoss(t *testing.T) {
	h := newHost(t)
	h.cfg += "audit: {file: " + h.in("audit.log") + "}\n"
	h.start()
	c := h.operator()
	backup := func(request, content string) string {
		t.Helper()
		h.write("phone-1.state", "running\n", 0o600)
		h.write("volumes/phone-1/data/file", content, 0o640)
		_, err := c.Backup(t.Context(), request, []string{"phone-1"})
		must(t, err)
		return h.over("phone-1").BackupID
	}
	prepare := func(request, id string) api.JobInfo {
		t.Helper()
		_, err := c.Prepare(t.Context(), request, []string{"phone-1"}, id)
		must(t, err)
		return h.over("phone-1")
	}
	old, newest := backup("r1", "the older state"), backup("r2", "the newer state")
	l, err := c.Loss(t.Context(), "phone-1")
	if err != nil || len(l.Lost) > 0 || l.Newest == nil || l.Newest.BackupID != newest {
		t.Errorf("while the store has all: %+v, %v", l, err)
	}
	if _, err := c.AcceptLoss(t.Context(), "phone-1", api.LossConfirmed{Lost: []string{newest}, BackupID: old}); err == nil {
		t.Error("a loss that there is not was accepted")
	}
	must(t, os.RemoveAll(h.in("volumes/phone-1")))
	must(t, os.Remove(h.inStore("*/backups/phone-1/*"+newest+"*")))
	if j := prepare("r3", ""); j.Stage != "failed" || !strings.Contains(j.ErrorMsg, "holdfast accept-loss phone-1") {
		t.Errorf("after the deletion: %s, %s", j.Stage, j.ErrorMsg)
	}
	l, err = c.Loss(t.Context(), "phone-1")
	if err != nil || len(l.Lost) != 1 || l.Lost[0].BackupID != newest || l.Newest == nil || l.Newest.BackupID != old || l.Accepted {
		t.Fatalf("what is lost: %+v, %v", l, err)
	}
	for _, wrong := range []api.LossConfirmed{{Lost: []string{old}, BackupID: old}, {Lost: []string{newest}, BackupID: newest}, {Lost: []string{newest}}} {
		if _, err := c.AcceptLoss(t.Context(), "phone-1", wrong); err == nil {
			t.Errorf("%+v was accepted", wrong)
		}
	}
	for range 2 { // done twice it is no error
		if l, err = c.AcceptLoss(t.Context(), "phone-1", api.LossConfirmed{Lost: []string{newest}, BackupID: old}); err != nil || !l.Accepted || l.AcceptedAt.IsZero() {
			t.Fatalf("accepted: %+v, %v", l, err)
		}
	}
	h.eventually("the control plane is told", func() bool { return h.plane.took("holdfast.instance.decided", "phone-1") != nil })
	told := 0
	for _, e := range h.plane.all() {
		if e.Type == "holdfast.instance.decided" {
			told++
			for _, want := range []string{`"decision":"loss_accepted"`, `"lost":["` + newest + `"]`, `"backup_id":"` + old + `"`, `"tenant":"acme"`} {
				if !strings.Contains(string(e.Data), want) {
					t.Errorf("no %s in %s", want, e.Data)
				}
			}
		}
	}
	if told != 1 {
		t.Errorf("the control plane was told %d times", told)
	}
	if j := prepare("r4", ""); j.Stage != "done" || j.BackupID != old {
		t.Errorf("after it was accepted: %s, %s", j.Stage, j.ErrorMsg)
	}
	if b, err := os.ReadFile(h.in("volumes/phone-1/data/file")); err != nil || string(b) != "the older state" {
		t.Errorf("the volume holds %q, %v", b, err)
	}
	if audited, err := os.ReadFile(h.in("audit.log")); err != nil || !bytes.Contains(audited, []byte("/accept-loss")) {
		t.Errorf("the audit log does not have it: %v", err)
	}
}

// TestDamagedNewestNamesTheOlder: the error of a restore whose backup is damaged
// names the next older backup, and an operator restores that one through the
// socket. A backup of another id, or of no id, is refused by failing.
func TestDamagedNewestNamesTheOlder(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.operator()
	var ids []string
	for _, content := range []string{"the older state", "the newer state"} {
		h.write("phone-1.state", "running\n", 0o600)
		h.write("volumes/phone-1/data/file", content, 0o640)
		_, err := c.Backup(t.Context(), "r-"+content[4:9], []string{"phone-1"})
		must(t, err)
		ids = append(ids, h.over("phone-1").BackupID)
	}
	must(t, os.RemoveAll(h.in("volumes/phone-1")))
	manifest := h.inStore("*/backups/phone-1/*" + ids[1] + "*")
	text, err := os.ReadFile(manifest)
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(manifest, text, 0o600))
	prepare := func(request, id string) api.JobInfo {
		t.Helper()
		_, err := c.Prepare(t.Context(), request, []string{"phone-1"}, id)
		must(t, err)
		return h.over("phone-1")
	}
	if j := prepare("r3", ""); j.Stage != "failed" || !strings.Contains(j.ErrorMsg, "holdfast request prepare phone-1 --backup "+ids[0]) {
		t.Errorf("the newest, which is damaged: %s, %s", j.Stage, j.ErrorMsg)
	}
	if j := prepare("r4", "20200101T000000Z-none"); j.Stage != "failed" || !strings.Contains(j.ErrorMsg, "no backup") {
		t.Errorf("a backup that there is not: %s, %s", j.Stage, j.ErrorMsg)
	}
	if j := prepare("r5", ids[0]); j.Stage != "done" || j.BackupID != ids[0] {
		t.Errorf("the older one: %s, %s", j.Stage, j.ErrorMsg)
	}
	if b, err := os.ReadFile(h.in("volumes/phone-1/data/file")); err != nil || string(b) != "the older state" {
		t.Errorf("the volume holds %q, %v", b, err)
	}
}

// TestConfigurationChangesWhileHeld: a host id, tenant, volumes and paths that change
// in the configuration while an instance is held are reported by the check before the
// start, by the start and as a trouble; the job goes on with its own record.
func TestConfigurationChangesWhileHeld(t *testing.T) {
	for _, tt := range []struct{ name, old, with, want string }{
		{"host id", "host_id: host-1", "host_id: host-2", `host_id was "host-1" and is "host-2"`},
		{"tenant", "- id: phone-1\n    tenant: acme", "- id: phone-1\n    tenant: other", `tenant was "acme" and is "other"`},
		{"path", "volumes/phone-1,", "volumes/elsewhere,", `the path of volume "data" was`},
		{"volume", "name: data, path: PATH/volumes/phone-1,", "name: media, path: PATH/volumes/phone-1,", `volume "data" is not there any more, volume "media" is new`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			h.cfg += unbraked + "release: control-plane\n"
			h.start()
			h.heldStored(t, "phone-1")
			h.stop()
			if h.strays() != "" {
				t.Errorf("before the change: %s", h.strays())
			}
			changed := strings.Replace(h.cfg, strings.ReplaceAll(tt.old, "PATH", h.dir), strings.ReplaceAll(tt.with, "PATH", h.dir), 1)
			if changed == h.cfg {
				t.Fatal("nothing was changed")
			}
			h.cfg = changed
			if got := h.strays(); !strings.Contains(got, tt.want) || !strings.Contains(got, "is held") {
				t.Errorf("the check says %q", got)
			}
			h.start()
			h.agent.ShowAtOnce()
			if log := h.logs.String(); !strings.Contains(log, "the configuration of an instance changed while its job is unfinished") {
				t.Error("the start does not warn")
			}
			info, err := h.operator().Info(t.Context())
			must(t, err)
			if trouble := info.Trouble("configuration_changed"); trouble == nil || !strings.Contains(trouble.Error, tt.want) {
				t.Errorf("the status has %+v", info.Troubles)
			}
			must(t, h.operator().Release(t.Context(), "phone-1"))
			if j := h.over("phone-1"); j.Stage != "done" || h.state("phone-1") != "stopped" {
				t.Errorf("it ends as %s: %s", j.Stage, j.ErrorMsg)
			}
			if info, err = h.operator().Info(t.Context()); err != nil || info.Trouble("configuration_changed") != nil {
				t.Errorf("after it: %+v, %v", info.Troubles, err)
			}
		})
	}
}

// TestCancelTooLate: a task of which nothing can be cancelled says so,
// and a task that was cancelled is cancelled twice without an error.
func TestCancelTooLate(t *testing.T) {
	h := newHost(t)
	h.cfg += "release: control-plane\n"
	h.start()
	c := h.operator()
	refused := func(task, want string) {
		t.Helper()
		err := c.Cancel(t.Context(), task)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeParameter || !strings.Contains(e.Msg, want) {
			t.Errorf("cancel: %v, want %s", err, want)
		}
	}
	h.plane.answer(func(model.Event) int { return http.StatusServiceUnavailable })
	a, err := c.Backup(t.Context(), "r1", []string{"phone-1"})
	must(t, err)
	h.stage("phone-1", "reported")
	refused(a.TaskID, "phone-1: the job is reported, and its backup is stored; resume the instance instead")
	must(t, c.Resume(t.Context(), "phone-1"))
	h.over("phone-1")
	refused(a.TaskID, "phone-1: the job has ended already, with success")
	h.write("phone-2.state", "missing\n", 0o600)
	if a, err = c.Backup(t.Context(), "r2", []string{"phone-2"}); err != nil {
		t.Fatal(err)
	}
	h.over("phone-2")
	refused(a.TaskID, "phone-2: the job has ended already, and failed")
	must(t, os.Rename(h.in("store"), h.in("away")))
	if a, err = c.Backup(t.Context(), "r3", []string{"phone-3"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		must(t, c.Cancel(t.Context(), a.TaskID))
		h.over("phone-3")
	}
	if !slices.Contains([]string{"failed"}, h.over("phone-3").Stage) {
		t.Error("it was not cancelled")
	}
	must(t, os.Rename(h.in("away"), filepath.Join(h.dir, "store")))
}
