package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/agent"
	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/hostid"
)

// copyState copies the state folder as an operator does.
func (h *host) copyState(name string) {
	h.t.Helper()
	if out, err := exec.Command("cp", "-a", h.in("state"), h.in(name)).CombinedOutput(); err != nil {
		h.t.Fatalf("cp: %v: %s", err, out)
	}
}

// copied is the same machine with another agent, on a copy of the state
// folder; it has a control plane and a log of its own.
func (h *host) copied(name string) *host {
	h.t.Helper()
	h.copyState(name)
	c := *h
	c.plane, c.logs = &plane{}, &lockedBuffer{}
	c.plane.server = httptest.NewServer(c.plane)
	h.t.Cleanup(c.plane.server.Close)
	c.socket = "s-" + name
	c.cfg = strings.NewReplacer("state_dir: "+h.in("state"), "state_dir: "+h.in(name), "socket: "+h.in("s"), "socket: "+h.in(c.socket),
		h.plane.server.URL, c.plane.server.URL).Replace(h.cfg)
	return &c
}

// undetected makes a copy that neither hardware nor place tells, as a cloned disk.
func (h *host) undetected(name string) {
	h.t.Helper()
	_, _, err := hostid.Adopt(h.in(name), hostid.Claim{})
	must(h.t, err)
}

// stored lists the objects of the store.
func (h *host) stored() (names []string) {
	h.t.Helper()
	must(h.t, filepath.WalkDir(h.in("store"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	}))
	return names
}

// standsStill looks at all that an agent of a copy shows.
func (h *host) standsStill(why string) {
	h.t.Helper()
	h.eventually("it stands still", func() bool {
		info, err := h.operator().Info(h.t.Context())
		trouble := info.Trouble("host_copied")
		return err == nil && trouble != nil && strings.Contains(trouble.Error, why) && strings.Contains(trouble.Hint, "holdfastd adopt")
	})
	if status, _ := h.get("/readyz"); status != http.StatusServiceUnavailable {
		h.t.Errorf("readyz answers %d", status)
	}
	if status, text := h.get("/healthz"); status != http.StatusOK {
		h.t.Errorf("healthz answers %d %s: a restart would not help", status, text)
	}
	ctx := h.t.Context()
	refused := func(what string, err error) {
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeCopied {
			h.t.Errorf("%s: %v", what, err)
		}
	}
	_, err := h.operator().Backup(ctx, "of-the-copy", []string{"phone-3"})
	refused("backup", err)
	refused("resume", h.operator().Resume(ctx, "phone-1"))
	refused("release", h.operator().Release(ctx, "phone-1"))
	refused("drain", h.operator().Drain(ctx))
	if a := h.call(http.MethodPost, "/v1/instances/backup", "other", "of-the-copy", `{"instance_ids":["phone-3"]}`); a.Code != api.CodeCopied || a.Status != http.StatusInternalServerError {
		h.t.Errorf("the control plane is answered %+v", a)
	}
}

// works tells that the agent takes commands.
func (h *host) works() {
	h.t.Helper()
	h.eventually("it is ready", func() bool { status, _ := h.get("/readyz"); return status == http.StatusOK })
	if info, err := h.operator().Info(h.t.Context()); err != nil || info.Trouble("host_copied") != nil {
		h.t.Errorf("%+v, %v", info, err)
	}
}

// held brings phone-1 to acknowledged, and phone-2 to a report
// that nobody takes, and stops the agent.
func (h *host) held() {
	h.t.Helper()
	h.cfg += unbraked + "release: control-plane\n"
	h.plane.answer(func(e model.Event) int {
		if e.Instance == "phone-2" {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	h.start()
	for _, id := range []string{"phone-1", "phone-2"} {
		h.operate(h.t, id)
	}
	h.stage("phone-1", "acknowledged")
	h.stage("phone-2", "reported")
	h.stop()
	h.plane.answer(nil)
}

func (h *host) unchanged(before []string) {
	h.t.Helper()
	if now := h.stored(); !slices.Equal(now, before) {
		h.t.Errorf("the store has\n%s\nand had\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
	}
	for _, id := range []string{"phone-1", "phone-2"} {
		if s := h.state(id); s != "frozen" {
			h.t.Errorf("%s is %s", id, s)
		}
	}
}

// TestCopyStandsStill runs an agent on a copy of the state folder of a host that holds
// two instances, alone and beside the original. It stands for the promise that a copy delivers,
// releases, thaws, removes and accepts nothing, and that the original goes on as before.
func TestCopyStandsStill(t *testing.T) {
	h := newHost(t)
	h.held()
	c := h.copied("copy")
	before := h.stored()
	c.start()
	c.standsStill("copy on the same machine")
	h.unchanged(before)

	h.start()
	h.works()
	h.eventually("the original delivers", func() bool { return h.plane.took("holdfast.backup.completed", "phone-2") != nil })
	must(t, h.operator().Release(t.Context(), "phone-1"))
	h.eventually("the original releases", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	h.stage("phone-2", "acknowledged")
	c.standsStill("copy on the same machine")
	if events := c.plane.all(); len(events) > 0 {
		t.Errorf("the copy delivered %+v", events)
	}
	if s := h.state("phone-2"); s != "frozen" {
		t.Errorf("phone-2 is %s", s)
	}
	c.stop()
	// With a fault in its configuration it does not let go of the original's held instances either.
	c.faulty = true
	if err := c.opens(); !errors.Is(err, agent.ErrCopied) {
		t.Errorf("a start that recovers: %v", err)
	}
	if s := h.state("phone-2"); s != "frozen" {
		t.Errorf("after a start that recovers phone-2 is %s", s)
	}
}

// TestCopyTakesOver: a person has the copy go on as the host. It delivers
// the waiting reports and goes on with the held instances; nothing is
// powered down for it, and the original stands still from then on.
func TestCopyTakesOver(t *testing.T) {
	h := newHost(t)
	h.held()
	c := h.copied("copy")
	c.start()
	c.standsStill("")
	if _, err := agent.Adopt(c.in("copy"), false); err == nil || !strings.Contains(err.Error(), "holdfastd stop") {
		t.Errorf("under a running agent: %v", err)
	}
	c.stop()
	done, err := agent.Adopt(c.in("copy"), false)
	must(t, err)
	if done.Before != done.Now || !slices.Equal(done.Instances, []string{"phone-1", "phone-2"}) || done.Reports != 2 || len(done.Aside) > 0 {
		t.Errorf("%+v", done)
	}
	c.start()
	c.works()
	c.eventually("it delivers", func() bool { return c.plane.took("holdfast.backup.completed", "phone-2") != nil })
	for _, id := range []string{"phone-1", "phone-2"} {
		c.stage(id, "acknowledged")
		if s := c.state(id); s != "frozen" {
			t.Errorf("%s is %s", id, s)
		}
	}
	h.start() // its folder is its own, and the store tells of the other
	h.standsStill("another copy")
	h.stop()
	h.start()
	h.standsStill("another copy")
	c.look()
	c.works()
	must(t, c.operator().Resume(t.Context(), "phone-1"))
	c.eventually("it resumes", func() bool { return c.state("phone-1") == "running" })
	if e := h.plane.took("holdfast.backup.completed", "phone-2"); e != nil {
		t.Errorf("the original delivered %+v", e)
	}
}

// TestCopyIsANewHost: a person has the copy be another host, which never held
// an instance. Both work then, and neither touches anything of the other.
func TestCopyIsANewHost(t *testing.T) {
	h := newHost(t)
	h.held()
	c := h.copied("copy")
	before := h.stored()
	done, err := agent.Adopt(c.in("copy"), true)
	must(t, err)
	if done.Before == done.Now || done.Before == "" || len(done.Aside) != 2 || done.Reports != 2 {
		t.Errorf("%+v", done)
	}
	again, err := agent.Adopt(c.in("copy"), true) // by an impatient person
	must(t, err)
	if again.Before != done.Now || len(again.Instances) > 0 || again.Reports > 0 {
		t.Errorf("the second time %+v", again)
	}
	h.unchanged(before)
	c.start()
	c.works()
	jobs, err := c.operator().Jobs(t.Context(), api.JobFilter{})
	if err != nil || len(jobs) > 0 {
		t.Errorf("it has the jobs %+v, %v", jobs, err)
	}
	h.start()
	h.works()
	c.operate(t, "phone-3")
	c.eventually("the copy backs up", func() bool { return c.plane.took("holdfast.backup.completed", "phone-3") != nil })
	h.eventually("the original delivers", func() bool { return h.plane.took("holdfast.backup.completed", "phone-2") != nil })
	for _, e := range c.plane.all() {
		if e.Instance != "phone-3" {
			t.Errorf("the copy delivered %s of %s", e.Type, e.Instance)
		}
	}
	for _, id := range []string{"phone-1", "phone-2"} {
		h.stage(id, "acknowledged")
		if s := h.state(id); s != "frozen" {
			t.Errorf("%s is %s", id, s)
		}
	}
	h.look()
	c.look()
	h.works()
	c.works()
}

// TestAdoptAfterAPowerCut cuts the adoption off when the journal is set
// aside already; the next start of the agent ends it.
func TestAdoptAfterAPowerCut(t *testing.T) {
	h := newHost(t)
	h.held()
	c := h.copied("copy")
	cut := errors.New("a power cut")
	_, _, err := hostid.Adopt(c.in("copy"), hostid.Claim{New: true, Between: func(before string) error {
		return errors.Join(os.Rename(c.in("copy/journal.db"), c.in("copy/journal.db.copied-"+before)), cut)
	}})
	if !errors.Is(err, cut) {
		t.Fatal(err)
	}
	c.start()
	c.works()
	for pattern, n := range map[string]int{"copy/journal.db.copied-*": 1, "copy/held.copied-*": 1} {
		if found, err := filepath.Glob(c.in(pattern)); err != nil || len(found) != n {
			t.Errorf("%s: %q, %v", pattern, found, err)
		}
	}
	if jobs, err := c.operator().Jobs(t.Context(), api.JobFilter{}); err != nil || len(jobs) > 0 {
		t.Errorf("it has the jobs %+v, %v", jobs, err)
	}
	for _, id := range []string{"phone-1", "phone-2"} {
		if s := c.state(id); s != "frozen" {
			t.Errorf("%s is %s", id, s)
		}
	}
}

// TestRolledBackStateStandsStill: a machine that is set back to an earlier
// snapshot has an earlier journal, and the vault shows it.
func TestRolledBackStateStandsStill(t *testing.T) {
	h := newHost(t)
	h.held()
	h.copyState("snapshot")
	h.start()
	h.eventually("delivered", func() bool { return h.plane.took("holdfast.backup.completed", "phone-2") != nil })
	h.stop()
	back := func(from string) {
		entries, err := os.ReadDir(h.in("state"))
		must(t, err)
		for _, e := range entries {
			must(t, os.RemoveAll(filepath.Join(h.in("state"), e.Name())))
		}
		if out, err := exec.Command("cp", "-a", h.in(from)+"/.", h.in("state")).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	back("snapshot")
	n, before := len(h.plane.all()), h.stored()
	h.start()
	h.standsStill("set back to an earlier state")
	h.unchanged(before)
	h.stop()
	must(t, os.Rename(h.in("store"), h.in("away"))) // it does not forget when the store is away
	h.start()
	h.standsStill("set back to an earlier state")
	if events := h.plane.all()[n:]; len(events) > 0 {
		t.Errorf("it delivered %+v", events)
	}
}

// TestLostLooksStandStill: without the file of its looks a folder does not know its own ones.
func TestLostLooksStandStill(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"removed": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.held()
			must(t, spoil(h.in("state/"+agent.LooksFile)))
			h.start()
			h.standsStill(agent.LooksFile)
			h.stop()
			_, err := agent.Adopt(h.in("state"), false)
			must(t, err)
			h.start()
			h.works()
			h.stop()
			h.start()
			h.works()
		})
	}
}

// TestEqualCopies: neither hardware nor place tells two copies apart. The store does,
// and the original goes on wherever it is known which of them that is.
func TestEqualCopies(t *testing.T) {
	t.Run("the original has looked since", func(t *testing.T) {
		h := newHost(t)
		h.held()
		h.start()
		c := h.copied("copy")
		h.undetected("copy")
		h.look()
		c.start()
		c.standsStill("another copy")
		h.look()
		h.works()
		if events := c.plane.all(); len(events) > 0 {
			t.Errorf("the copy delivered %+v", events)
		}
	})
	t.Run("the copy begins between two looks", func(t *testing.T) {
		h := newHost(t)
		h.held()
		h.start()
		c := h.copied("copy")
		h.undetected("copy")
		c.start()
		c.works()
		h.look()
		h.works()
		if !strings.Contains(h.logs.String(), "a copy of this state folder was started") {
			t.Error("the original does not say that there is a copy")
		}
		c.look()
		c.standsStill("another copy")
		h.look()
		h.works()
		h.stop()
		h.start()
		h.works()
		c.stop()
		c.start()
		c.standsStill("another copy")
	})
	t.Run("the original has ended", func(t *testing.T) {
		h := newHost(t)
		h.held()
		one := h.copied("one")
		h.undetected("one")
		two := h.copied("two")
		h.undetected("two")
		one.start()
		one.works()
		two.start()
		two.standsStill("another copy")
		one.look()
		one.works()
	})
}

// TestCopyNeverPowersDown: a copy that has met nothing of the original
// yet looks again before it powers an instance down.
func TestCopyNeverPowersDown(t *testing.T) {
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "limits: {", "limits: {verified_within: 0s, ", 1)
	h.held()
	h.start()
	c := h.copied("copy")
	h.undetected("copy")
	c.start()
	c.works()
	h.look()
	downs := func() string { b, _ := os.ReadFile(h.in("downs")); return string(b) }
	must(t, c.operator().Release(t.Context(), "phone-1"))
	c.standsStill("another copy")
	if downs() != "" || h.state("phone-1") != "frozen" {
		t.Errorf("it powered down %q, and phone-1 is %s", downs(), h.state("phone-1"))
	}
	must(t, h.operator().Release(t.Context(), "phone-1"))
	h.eventually("the original releases", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
}

// TestCopyLooksBeforeEachPowerDown: a copy that has only just verified its own backup, and could go
// by that, looks for the original all the same before it powers the instance down.
func TestCopyLooksBeforeEachPowerDown(t *testing.T) {
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "limits: {", "limits: {verified_within: 1h, ", 1)
	h.held()
	h.start()
	c := h.copied("copy")
	h.undetected("copy")
	c.start()
	c.works()
	must(t, c.operator().Resume(t.Context(), "phone-1"))
	c.eventually("the copy lets it run", func() bool { return c.plane.took("holdfast.instance.resumed", "phone-1") != nil })
	c.eventually("the job of before is over", func() bool {
		jobs, err := c.operator().Jobs(t.Context(), api.JobFilter{InstanceID: "phone-1", Active: true})
		return err == nil && len(jobs) == 0
	})
	_, err := c.operator().Backup(t.Context(), "of-the-copy", []string{"phone-1"})
	must(t, err)
	c.stage("phone-1", "acknowledged")
	h.look()
	must(t, c.operator().Release(t.Context(), "phone-1"))
	c.standsStill("another copy")
	if downs, _ := os.ReadFile(h.in("downs")); len(downs) > 0 || h.state("phone-1") != "frozen" {
		t.Errorf("it powered down %q, and phone-1 is %s", downs, h.state("phone-1"))
	}
	h.works()
}

// opens opens an agent, and closes it should that succeed.
func (h *host) opens() error {
	cfg, err := config.Parse([]byte(h.cfg), "test.yaml")
	must(h.t, err)
	a, err := agent.Open(h.t.Context(), agent.Options{Config: cfg, Recover: h.faulty})
	if err == nil {
		err = a.Close()
	}
	return err
}

// statement is the statement in the receipt of the last backup of phone-1.
func (p *plane) statement(t *testing.T) string {
	t.Helper()
	e := p.took("holdfast.backup.completed", "phone-1")
	if e == nil {
		t.Fatal("no backup was reported")
	}
	var data struct {
		Receipt struct {
			Payload []byte `json:"payload"`
		} `json:"receipt"`
	}
	must(t, json.Unmarshal(e.Data, &data))
	return string(data.Receipt.Payload)
}

func (h *host) look() { h.agent.LookForCopies(context.Background()) }

// TestUnknownIdentityStandsStill: nobody knows whose the work is in a folder without its identity.
func TestUnknownIdentityStandsStill(t *testing.T) {
	h := newHost(t)
	h.held()
	must(t, os.Truncate(h.in("state/"+hostid.File), 20))
	before := h.stored()
	h.start()
	h.standsStill("is damaged")
	h.unchanged(before)
	h.stop()
	done, err := agent.Adopt(h.in("state"), false)
	must(t, err)
	if done.Before != done.Now || done.Now == "" {
		t.Errorf("%+v", done)
	}
	h.start()
	h.works()
}

// TestIdentityIsTold: events and receipts say which copy of a host they are of.
func TestIdentityIsTold(t *testing.T) {
	h := newHost(t)
	h.start()
	h.operate(t, "phone-1")
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	identity, err := hostid.Load(h.in("state"))
	must(t, err)
	if text := h.plane.statement(t); !strings.Contains(text, `"identity":"`+identity.ID+`"`) {
		t.Errorf("the receipt states %s", text)
	}
	h.stop()
	if len(h.plane.sources) == 0 {
		t.Error("no event came")
	}
	ids := map[string]bool{}
	for i, e := range h.plane.events {
		if source := h.plane.sources[i]; source != "urn:holdfast:host:host-1:"+identity.ID || ids[e.ID] {
			t.Errorf("the event %s is of %q, or came before", e.ID, source)
		}
		ids[e.ID] = true
	}
}
