package agent_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/internal/vault"
)

// chain puts backups of an instance without content into the vault of acme, each on top of the one
// before, and returns their ids.
func (h *host) chain(n int, instance string) (ids []string) {
	h.t.Helper()
	v := h.inVault()
	parent := ""
	for i := range n {
		all, err := v.Backups(h.t.Context(), instance)
		must(h.t, err)
		at := time.Now().Add(-time.Duration(n-i) * time.Hour)
		id := vault.LineageOf(all).NewID(uint64(i+1), at, parent, false)
		s, err := v.BeginSession(h.t.Context(), vault.SessionOptions{Host: "host-9"})
		must(h.t, err)
		must(h.t, s.WriteManifest(h.t.Context(), &vault.Manifest{Instance: instance, Seq: uint64(i + 1), ID: id, Parent: parent, Created: at}))
		must(h.t, s.End(h.t.Context()))
		ids, parent = append(ids, id), id
	}
	return ids
}

// noise is content that does not compress, and that is another one for each seed.
func noise(seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 300<<10)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// prune commands a prune of the vault of acme, and returns the id of its task.
func (h *host) prune(request, body string) string {
	h.t.Helper()
	a := h.call(http.MethodPost, "/v1/agent/vaults/acme/prune", "", request, body)
	var data api.PruneAnswer
	if a.Code != api.CodeOK || json.Unmarshal(a.Data, &data) != nil || data.TaskID == "" {
		h.t.Fatalf("prune: %+v", a)
	}
	return data.TaskID
}

// pruned waits until the control plane is told of the end of a prune.
func (h *host) pruned(task string) (run api.PruneRun) {
	h.t.Helper()
	h.eventually("the end of "+task, func() bool {
		for _, e := range h.plane.all() {
			if strings.HasPrefix(e.Type, "holdfast.prune.") && e.Instance == "vaults/acme" && json.Unmarshal(e.Data, &run) == nil && run.TaskID == task {
				return true
			}
		}
		return false
	})
	return run
}

// packs counts the packs in the store.
func (h *host) packs() int {
	h.t.Helper()
	found, err := filepath.Glob(h.in("store/*/packs/*/*"))
	must(h.t, err)
	return len(found)
}

// TestVaultShrinks: on the command of the control plane the agent forgets by its rules, and
// after the grace a prune deletes the backups and their packs, beside a backup that another host
// has under way. The rest restores exactly. The command is idempotent, also over a restart.
func TestVaultShrinks(t *testing.T) {
	h := newHost(t)
	h.cfg += "release: control-plane\naudit: {file: " + h.in("audit.log") + "}\nretention: {rules: [{keep_last: 1}], max_share: 100, max_garbage: 0}\n"
	h.start()
	newest := ""
	for i := range 3 {
		newest = h.runs(fmt.Sprint("r", i), noise(uint64(i))).Backup
		h.resumes()
	}
	before := h.packs()

	dry := h.pruned(h.prune("p0", `{"dry_run":true}`))
	if dry.Forget != 2 || dry.Forgotten != 0 || !dry.DryRun {
		t.Errorf("a dry run: %+v", dry)
	}
	task := h.prune("p1", "")
	if run := h.pruned(task); run.State != "done" || run.Backups != 3 || run.Forgotten != 2 || run.DeletedBackups != 0 || h.packs() != before {
		t.Errorf("the first run: %+v", run)
	}
	h.graceIsOver()
	if again := h.prune("p1", "{}"); again != task {
		t.Errorf("after a restart the same command gives %s, and gave %s", again, task)
	}
	for tenant, want := range map[string]string{"other": api.CodeNoPermission, "": api.CodeParameter} {
		if a := h.call(http.MethodPost, "/v1/agent/vaults/acme/prune", tenant, "p1", `{"keep_all":true}`); a.Code != want {
			t.Errorf("of %q: %+v, want %s", tenant, a, want)
		}
	}
	for tenant, want := range map[string]int{"acme": 1, "other": 1, "": 2} {
		a := h.call(http.MethodGet, "/v1/agent/vaults", tenant, "q", "")
		if n := strings.Count(string(a.Data), `"run":"command"`); n != want {
			t.Errorf("%q sees %d vaults: %s", tenant, n, a.Data)
		}
	}

	// Another host has stored most of phone-2, and its freeze hangs.
	b := h.beside()
	b.write("verb", stubborn+strings.TrimPrefix(verb, "#!/bin/sh\n"), 0o700)
	b.cfg = strings.ReplaceAll(b.cfg, "runtime: {exec: {", "runtime: {exec: {timeout: 10m, ")
	b.write("hang-freeze-phone-2", "", 0o600)
	b.write("volumes/phone-2/data/file", noise(99), 0o640)
	t.Cleanup(func() { _ = os.Remove(b.in("hang-freeze-phone-2")) })
	b.start()
	b.backup("acme", "b1", "phone-2")
	b.stage("phone-2", "freezing")

	task = h.prune("p2", "")
	status := func() string {
		return string(h.call(http.MethodGet, "/v1/instances/tasks/"+task, "", "q", "").Data)
	}
	h.eventually("the prune waits for host-2", func() bool { return strings.Contains(status(), "host-2") })
	if !strings.Contains(status(), `"status":1`) || h.packs() < before {
		t.Errorf("while a backup is under way: %s, %d packs of %d", status(), h.packs(), before)
	}
	must(t, os.Remove(b.in("hang-freeze-phone-2")))
	b.eventually("phone-2 is released", func() bool { return b.plane.took("holdfast.instance.released", "phone-2") != nil })
	run := h.pruned(task)
	if run.State != "done" || run.DeletedBackups != 2 || run.DeletedPacks == 0 || run.DeletedBytes < 300<<10 {
		t.Errorf("the second run: %+v", run)
	}
	if !strings.Contains(status(), `"status":2`) || !strings.Contains(status(), "2 forgotten backups deleted") {
		t.Errorf("at the end: %s", status())
	}
	v := h.inVault()
	refs, err := v.Backups(t.Context(), "phone-1")
	must(t, err)
	if len(refs) != 1 || refs[0].ID != newest {
		t.Errorf("backups of phone-1: %+v, want %s", refs, newest)
	}
	// A backup may share a page of its recipe with the backup before it, whose pack stays then.
	needed := map[vault.PackID]bool{}
	for _, instance := range []string{"phone-1", "phone-2"} {
		refs, err := v.Backups(t.Context(), instance)
		must(t, err)
		for _, ref := range refs {
			m, err := v.Manifest(t.Context(), ref)
			must(t, err)
			for _, p := range m.Packs {
				needed[p.ID] = true
			}
		}
	}
	if n := h.packs(); n != len(needed) {
		t.Errorf("%d packs are left, and the backups that are left need %d", n, len(needed))
	}
	var done completed
	must(t, json.Unmarshal(b.plane.took("holdfast.backup.completed", "phone-2").Data, &done))
	for instance, of := range map[string]struct{ backup, content string }{
		"phone-1": {newest, noise(2)}, "phone-2": {done.Backup, noise(99)},
	} {
		dest := h.in("restored-" + instance)
		h.restore("acme", instance, of.backup, dest)
		if got, err := os.ReadFile(filepath.Join(dest, "data", "file")); err != nil || string(got) != of.content {
			t.Errorf("%s restores to %d other bytes, %v", instance, len(got), err)
		}
	}
	h.metrics(`holdfast_prunes_total{result="done"} 1`, "holdfast_pruned_backups_total 2", "holdfast_forgotten_backups_total 0", "holdfast_garbage_bytes 0")
	if audit, err := os.ReadFile(h.in("audit.log")); err != nil || !strings.Contains(string(audit), "POST /v1/agent/vaults/acme/prune") || !strings.Contains(string(audit), task) {
		t.Errorf("the audit log has no prune of acme: %v\n%s", err, audit)
	}
}

// TestVaultMovesChunks: with retention.sparse a prune moves the bytes that backups need out of
// packs that are mostly garbage, and the rest restores exactly.
func TestVaultMovesChunks(t *testing.T) {
	h := newHost(t)
	h.cfg += "release: control-plane\nretention: {rules: [{keep_last: 1}], max_share: 100, max_garbage: 0, sparse: 60}\n"
	h.start()
	h.write("volumes/phone-1/data/other", noise(7), 0o640)
	h.runs("r0", noise(0))
	h.resumes()
	newest := h.runs("r1", noise(1)).Backup
	h.resumes()
	h.pruned(h.prune("p0", ""))
	h.graceIsOver()
	run := h.pruned(h.prune("p1", ""))
	if run.State != "done" || run.DeletedBackups != 1 || run.MovedPacks != 1 || run.MovedBytes < 100<<10 || run.MovedBytes > 400<<10 || run.DeletedBytes < 600<<10 {
		t.Errorf("the run: %+v", run)
	}
	dest := h.in("restored")
	h.restore("acme", "phone-1", newest, dest)
	for name, want := range map[string]string{"file": noise(1), "other": noise(7)} {
		if got, err := os.ReadFile(filepath.Join(dest, "data", name)); err != nil || string(got) != want {
			t.Errorf("%s restores to %d other bytes, %v", name, len(got), err)
		}
	}
}

// graceIsOver restarts the agent with a time of grace that is over at once.
func (h *host) graceIsOver() {
	h.t.Helper()
	h.stop()
	h.change = func(c *config.Config) { c.Retention.Grace = config.Span(time.Nanosecond) }
	h.start()
}

// TestPruneTakesNothingThatIsNeeded: a prune takes neither a backup that the host prepared on
// command, although it is forgotten, nor a backup whose report nobody took.
func TestPruneTakesNothingThatIsNeeded(t *testing.T) {
	h := newHost(t)
	h.cfg += "release: control-plane\nretention: {rules: [{keep_last: 1}], max_share: 100, max_garbage: 0}\n"
	h.start()
	first := h.runs("r0", "at first").Backup
	h.resumes()
	h.runs("r1", "later")
	h.resumes()
	if run := h.pruned(h.prune("p0", "")); run.Forgotten != 1 {
		t.Errorf("the first run: %+v", run)
	}
	h.graceIsOver()
	h.write("phone-1.state", "stopped\n", 0o600)
	h.forgetEvents()
	_, err := h.operator().Prepare(t.Context(), "prepare", []string{"phone-1"}, first)
	must(t, err)
	h.restored("phone-1")
	run := h.pruned(h.prune("p1", ""))
	if run.State != "done" || run.BroughtBack != 1 || run.DeletedBackups != 0 {
		t.Errorf("after a prepare of a forgotten backup: %+v", run)
	}
	if run := h.pruned(h.prune("p2", "")); run.Needed != 1 || run.Forget != 0 || run.DeletedBackups != 0 {
		t.Errorf("the run after it: %+v", run)
	}
	dest := h.in("restored")
	h.restore("acme", "phone-1", first, dest)
	if got, err := os.ReadFile(filepath.Join(dest, "data", "file")); err != nil || string(got) != "at first" {
		t.Errorf("restored %q, %v", got, err)
	}
}
