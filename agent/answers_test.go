package agent_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/hostid"
	"holdfast/internal/vault"
)

// answersVerb is the verb of the hosts of TestAnswers: it hangs in a freeze, and in a look at
// an instance whose restored volumes are about to get into their places, while a file says so.
const answersVerb = `#!/bin/sh
d="$1"
while test -e "$d/hang-$HOLDFAST_ACTION-$HOLDFAST_INSTANCE"; do sleep 0.1; done
while test "$HOLDFAST_ACTION" = state && test -e "$d/hang-placing-$HOLDFAST_INSTANCE" && test -n "$(ls -d "$d/volumes/".holdfast-prepare-*-data 2>/dev/null)"; do sleep 0.1; done
`

// situation is a state of an instance in which every verb is asked.
type situation struct {
	name, means string
	// spares is how many instances are brought into the
	// situation: a verb that the agent takes uses one up.
	spares int
	tenant string // of the caller; "" sees all tenants
	ids    []string
}

// answerVerbs are the calls about one instance; calls that only look come first.
var answerVerbs = []struct {
	name string
	acts bool
	ask  func(a *answers, s *situation, id string) answer
}{
	{"prepare-progress", false, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/instances/prepare-progress", `{"instance_id":"`+id+`"}`)
	}},
	{"batch-query-status", false, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/instances/batch-query-status", a.batch(id))
	}},
	{"task", false, func(a *answers, s *situation, id string) answer {
		return a.h.call(http.MethodGet, "/v1/instances/tasks/"+a.task(id), s.tenant, "look", "")
	}},
	{"backup", true, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/instances/backup", a.batch(id))
	}},
	{"prepare", true, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/instances/prepare", a.batch(id))
	}},
	{"cancel", true, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/agent/tasks/"+a.task(id)+"/cancel", "")
	}},
	{"release", true, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/agent/instances/"+id+"/release", "")
	}},
	{"resume", true, func(a *answers, s *situation, id string) answer {
		return a.post(s, "/v1/agent/instances/"+id+"/resume", "")
	}},
	{"abandon", true, func(a *answers, _ *situation, id string) answer {
		_, err := a.h.operator().Abandon(a.h.t.Context(), id, a.job(id))
		return operatorAnswer(err)
	}},
}

// operatorAnswer is the socket's answer, by its client.
func operatorAnswer(err error) answer {
	if e, ok := err.(*api.Error); ok { //nolint:errorlint // the client returns it bare
		return answer{Code: e.Code, Msg: e.Msg}
	} else if err != nil {
		return answer{Code: "error", Msg: err.Error()}
	}
	return answer{Code: api.CodeOK, Msg: "OK"}
}

// answers asks a host.
type answers struct {
	h        *host
	requests int
	doc      strings.Builder
}

func (a *answers) post(s *situation, path, body string) answer {
	a.requests++
	return a.h.call(http.MethodPost, path, s.tenant, fmt.Sprint("answers-", a.requests), body)
}

// batch is the body of a command; ids of several instances are joined by a plus.
func (a *answers) batch(id string) string {
	text, err := json.Marshal(map[string][]string{"instance_ids": strings.Split(id, "+")})
	must(a.h.t, err)
	return string(text)
}

func (a *answers) last(id string) api.JobInfo {
	jobs, err := a.h.operator().Jobs(a.h.t.Context(), api.JobFilter{InstanceID: id, Limit: 1})
	must(a.h.t, err)
	if len(jobs) == 0 {
		return api.JobInfo{TaskID: "nothing", JobID: "nothing"}
	}
	return jobs[0]
}

func (a *answers) task(id string) string { return a.last(id).TaskID }
func (a *answers) job(id string) string  { return a.last(id).JobID }

// tell makes every call in one situation, and writes the answers.
func (a *answers) tell(s *situation) {
	fmt.Fprintf(&a.doc, "\n## %s\n\n%s\n\n| call | code | answer |\n|---|---|---|\n", s.name, s.means)
	ids := slices.Clone(s.ids)
	for _, v := range answerVerbs {
		if len(ids) == 0 {
			a.h.t.Errorf("%s: no instance is left for %s", s.name, v.name)
			return
		}
		id := ids[0]
		if strings.Contains(id, "+") && !slices.Contains([]string{"batch-query-status", "backup", "prepare"}, v.name) {
			continue
		}
		got := v.ask(a, s, id)
		fmt.Fprintf(&a.doc, "| %s | `%s` | %s |\n", v.name, strings.TrimPrefix(got.Code, "KOOPHONE.API"), a.plain(got, id))
		if v.acts && got.Code == api.CodeOK && len(ids) > 1 {
			ids = ids[1:]
		}
	}
}

var anyID = regexp.MustCompile(`[0-9a-f]{20}`)

// plain is an answer without what differs from run to run.
func (a *answers) plain(got answer, id string) string {
	text := got.Msg
	var data struct {
		Status *int `json:"status"`
		Jobs   []struct {
			Status  int    `json:"status"`
			Message string `json:"execute_msg"`
		} `json:"jobs"`
	}
	_ = json.Unmarshal(got.Data, &data)
	switch {
	case got.Code != api.CodeOK:
	case data.Status != nil:
		text = fmt.Sprint("status ", *data.Status)
	case len(got.Results) > 0:
		text = fmt.Sprint("status ", got.Results[0].Status)
	case len(data.Jobs) > 0:
		text = fmt.Sprintf("status %d, %s", data.Jobs[0].Status, data.Jobs[0].Message)
	}
	for i, one := range strings.Split(id, "+") {
		text = strings.ReplaceAll(text, one, strings.Repeat("ANOTHER-", i)+"INSTANCE")
	}
	text = anyID.ReplaceAllString(strings.ReplaceAll(text, a.h.dir, "DIR"), "ID")
	return strings.ReplaceAll(text, "|", "\\|")
}

const answersHead = `# Answers

What the agent answers to each call about one instance, in each situation of the instance. TestAnswers asks a real agent and holds this
document to what it says (` + "`go test ./agent -run TestAnswers -update`" + ` rewrites the document).

Codes begin with ` + "`KOOPHONE.API`" + `; ` + "`0`" + ` is success. The caller is a control plane whose token is bound to the tenant of the instance, where nothing
else is said; ` + "`abandon`" + ` is asked by an operator at the socket. The numbers of ` + "`status`" + ` are those of each call: see DESIGN.md.
`

// TestAnswers asks every verb in every situation of an instance, and holds
// ANSWERS.md to the answers. It stands for the promise that a caller can tell
// situations apart by code, and that no situation answers with an internal error.
func TestAnswers(t *testing.T) {
	a := &answers{}
	a.doc.WriteString(answersHead)
	busyHost(t, a)
	waitingHost(t, a)
	doc := a.doc.String()
	if strings.Contains(doc, "internal service error") {
		t.Error("a situation is answered with an internal error")
	}
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		must(t, os.WriteFile("ANSWERS.md", []byte(doc), 0o644))
	}
	if had, err := os.ReadFile("ANSWERS.md"); err != nil || string(had) != doc {
		t.Errorf("ANSWERS.md is not what the agent answers (-update rewrites it): %v\n%s", err, doc)
	}
}

// answersHost makes a host with instances of the tenant acme in the place of its own.
func answersHost(t *testing.T, situations []*situation, limits string) *host {
	h := newHost(t)
	h.write("verb", answersVerb+strings.TrimPrefix(verb, "#!/bin/sh\n"), 0o700)
	for _, s := range situations {
		for i := range s.spares {
			s.ids = append(s.ids, fmt.Sprintf("%s-%d", strings.ReplaceAll(s.name, " ", "-"), i))
		}
		h.more(s.ids...)
	}
	h.cfg = strings.NewReplacer("runtime: {exec: {", "runtime: {exec: {timeout: 10m, ", "limits: {drain_timeout: 5s", limits+"drain_timeout: 1s").Replace(h.cfg) +
		unbraked + "release: control-plane\nhold: frozen\n"
	return h
}

// busyHost has every situation, except situations of waiting jobs.
func busyHost(t *testing.T, a *answers) {
	make := func(name string, spares int, means string) *situation {
		return &situation{name: name, spares: spares, means: means, tenant: "acme"}
	}
	runs := make("runs", 3, "The instance runs with its volumes, and had no job yet.")
	missing := make("missing", 2, "The volumes are not on this host, and the instance had no job yet.")
	work := make("freezing", 2, "A backup is at work; the instance is being frozen.")
	reported := make("reported", 3, "The backup is stored, and the control plane has not acknowledged the report.")
	held := make("held", 3, "The backup is acknowledged, and the instance is frozen until `release` or `resume`.")
	refused := make("refused", 3, "The control plane refused the report of the backup; the instance is frozen.")
	released := make("released", 4, "The instance was backed up and powered down; its volumes lie here still.")
	resumed := make("resumed", 4, "The instance was backed up, and let run again on request.")
	failed := make("failed", 3, "The last backup failed.")
	restoring := make("restoring", 2, "A restore is at work; nothing of the volumes is in its place yet.")
	placing := make("placing", 1, "The restored volumes are getting into their places.")
	restored := make("restored", 3, "The last restore brought the volumes back.")
	lost := make("unrestored", 3, "The last restore failed, and the volumes are not on this host.")
	unknown := make("unknown", 2, "The record of an unfinished backup is not understood.")
	written := make("backed elsewhere", 1, "The volumes are not on this host, and another host has a backup of the instance under way.")
	claimed := make("claimed elsewhere", 1, "The volumes are not on this host, and another host has claimed the instance and gives signs of life.")
	all := []*situation{restoring, placing, work, runs, missing, written, claimed, reported, held, refused, released, resumed, failed, restored, lost, unknown}
	h := answersHost(t, all, "limits: {jobs: 60, held: 60, memory: 1500MiB, ")
	a.h = h
	back := slices.Concat(released.ids, restoring.ids, placing.ids, restored.ids)
	for _, id := range restoring.ids {
		rng := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", id))))
		content := [8 << 20]byte{}
		_, _ = rng.Read(content[:]) // never fails
		h.write(filepath.Join("volumes", id, "data", "file"), string(content[:]), 0o600)
	}
	for _, id := range slices.Concat(missing.ids, lost.ids, written.ids, claimed.ids) {
		must(t, os.RemoveAll(h.in("volumes/"+id)))
	}
	for _, id := range failed.ids {
		h.write(id+".state", "missing\n", 0o600)
	}
	for _, id := range slices.Concat(written.ids, claimed.ids) {
		h.write(id+".state", "stopped\n", 0o600)
	}
	for _, id := range work.ids {
		h.write("hang-freeze-"+id, "", 0o600)
	}
	h.plane.answer(func(e model.Event) int {
		switch {
		case e.Type == "holdfast.backup.completed" && strings.HasPrefix(e.Instance, "refused"):
			return http.StatusUnprocessableEntity
		case e.Type == "holdfast.backup.completed" && strings.HasPrefix(e.Instance, "reported"):
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	t.Cleanup(h.free)
	h.start()
	c, ctx := h.operator(), t.Context()
	stages := func(ids []string, stage string) {
		t.Helper()
		h.eventually(fmt.Sprint(ids, " are ", stage), func() bool {
			jobs, err := c.Jobs(ctx, api.JobFilter{})
			last := map[string]string{}
			for _, j := range slices.Backward(jobs) {
				last[j.InstanceID] = j.Stage
			}
			return err == nil && !slices.ContainsFunc(ids, func(id string) bool { return last[id] != stage })
		})
	}
	each := func(request string, ids []string, do func(id, request string) error) {
		t.Helper()
		for _, id := range ids {
			must(t, do(id, request+id))
		}
	}
	backup := func(id, request string) error { _, err := c.Backup(ctx, request, []string{id}); return err }
	prepare := func(id, request string) error { _, err := c.Prepare(ctx, request, []string{id}, ""); return err }
	first := slices.Concat(reported.ids, held.ids, refused.ids, resumed.ids, unknown.ids, failed.ids, back)
	each("first-", first, backup)
	stages(slices.Concat(held.ids, resumed.ids, unknown.ids, back), "acknowledged")
	stages(reported.ids, "reported")
	stages(refused.ids, "held")
	stages(failed.ids, "failed")
	for _, id := range back {
		must(t, c.Release(ctx, id))
	}
	for _, id := range resumed.ids {
		must(t, c.Resume(ctx, id))
	}
	stages(slices.Concat(back, resumed.ids), "done")
	h.stop()
	for _, id := range unknown.ids {
		h.strange(t, id)
	}
	h.start()
	for _, id := range slices.Concat(restoring.ids, placing.ids, restored.ids) {
		must(t, os.RemoveAll(h.in("volumes/"+id)))
	}
	each("again-", slices.Concat(restored.ids, lost.ids), prepare)
	stages(restored.ids, "done")
	stages(lost.ids, "failed")
	h.write("hang-placing-"+placing.ids[0], "", 0o600)
	each("placing-", placing.ids, prepare)
	stages(placing.ids, "placing")
	slow := int64(64 << 10)
	_, err := c.SetThrottle(ctx, api.ThrottleSetting{Down: &slow})
	must(t, err)
	each("restoring-", restoring.ids, prepare)
	stages(restoring.ids, "restoring")
	v, another := h.inVault(), hostid.Identity{ID: "another"}
	named, err := v.Name(ctx, vault.SessionOptions{Host: "host-9", Identity: another, Instance: written.ids[0]})
	must(t, err)
	defer func() { must(t, named.End(context.WithoutCancel(ctx))) }()
	_, err = v.Claim(ctx, vault.ClaimOptions{Instance: claimed.ids[0], Host: "host-9", Identity: another.ID, Job: "a job"})
	must(t, err)
	each("work-", work.ids, backup)
	stages(work.ids, "freezing")

	for i, s := range all {
		a.tell(s)
		if i == 0 { // of the situations only a restore at work depends on how slow the store is
			none := int64(0)
			_, err = c.SetThrottle(ctx, api.ThrottleSetting{Down: &none})
			must(t, err)
		}
	}
	for _, s := range []*situation{
		{name: "nobody", means: "No instance of that id is on this host; the caller sees all tenants.", ids: []string{"nobody"}},
		{name: "foreign", means: "The instance is another tenant's, or there is none: the answers are the same.", ids: []string{"phone-3"}, tenant: "acme"},
		{name: "two tenants", means: "The ids of the call are of two tenants; the caller sees all tenants.", ids: []string{runs.ids[2] + "+phone-3"}},
		{name: "foreign among others", means: "One id of the call is another tenant's.", ids: []string{"phone-3+" + runs.ids[2]}, tenant: "acme"},
	} {
		a.tell(s)
	}
	h.free()
	_ = os.Remove(h.in("hang-placing-" + placing.ids[0]))
	h.stop()
}

// waitingHost has jobs that wait for their turn, and drains. Then it
// goes on with a copy of its state folder.
func waitingHost(t *testing.T, a *answers) {
	first := &situation{name: "first", spares: 1}
	backup := &situation{name: "waits for a backup", spares: 2, tenant: "acme", means: "A backup is accepted, and waits for its turn."}
	restore := &situation{name: "waits for a restore", spares: 2, tenant: "acme", means: "A restore is accepted, and waits for its turn; the volumes are not on this host."}
	drained := &situation{name: "drained", spares: 1, tenant: "acme", means: "The instance runs, and the agent drains: it takes no new commands."}
	for _, s := range []*situation{first, backup, restore, drained} {
		if len(s.name) > 20 {
			t.Fatal("too long for an id")
		}
	}
	h := answersHost(t, []*situation{first, backup, restore, drained}, "limits: {jobs: 1, ")
	a.h = h
	for _, id := range restore.ids {
		must(t, os.RemoveAll(h.in("volumes/"+id)))
	}
	h.write("hang-freeze-"+first.ids[0], "", 0o600)
	t.Cleanup(h.free)
	h.start()
	h.operate(t, first.ids[0])
	h.stage(first.ids[0], "freezing")
	for _, id := range restore.ids {
		_, err := h.operator().Prepare(t.Context(), "restore-"+id, []string{id}, "")
		must(t, err)
	}
	for _, id := range backup.ids {
		h.operate(t, id)
	}
	a.tell(backup)
	a.tell(restore)
	must(t, h.operator().Drain(t.Context()))
	a.tell(drained)
	h.free()
	h.stop()
	h.copyState("state-2")
	h.cfg = strings.Replace(h.cfg, "state_dir: "+h.in("state"), "state_dir: "+h.in("state-2"), 1)
	h.start()
	a.tell(&situation{
		name: "copied host", tenant: "acme", ids: drained.ids,
		means: "The instance runs, and the state folder of the agent is a copy: the agent stands still until `holdfastd adopt` (`host_copied`).",
	})
	h.stop()
}
