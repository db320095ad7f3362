package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

// metric is the line of the agent's metrics page that begins so.
func (h *host) metric(name string) string {
	h.t.Helper()
	res, err := http.Get("http://" + h.metrics + "/metrics")
	must(h.t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	must(h.t, err)
	for line := range strings.Lines(string(page)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestHeldContainersAreTouched: while the reports of their backups wait, the owner of held
// containers renames one, makes another anew and pauses it, lets a third run and pauses it
// again, starts and stops a container that was stopped, and leaves the last alone. Only
// the last is powered down, and each touched container stays as the owner left it.
func TestHeldContainersAreTouched(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	p := startPlane(t)
	var away atomic.Bool
	away.Store(true)
	p.setAnswer(func(e model.Event) int {
		if away.Load() && e.Type == completed {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	h := newHost(t, p, "file://"+t.TempDir())
	h.extra = "hold: frozen"
	names := []string{"renamed", "anew", "ran", "stopped", "alone"}
	ids := map[string]string{}
	spec := func(name string) testbed.Container {
		return testbed.Container{
			Name: "touched-" + name, Binds: []string{filepath.Join(h.dir, name) + ":/data"},
			Command: []string{"/bin/sh", "-c", "while :; do echo x >>/data/log; busybox sleep 0.01; done"},
		}
	}
	for _, name := range names {
		ids[name] = docker.Run(t, spec(name))
		h.addDocker(name, docker.Host, "touched-"+name, filepath.Join(h.dir, name))
	}
	docker.Act(t, ids["stopped"], "stop?t=1")
	h.start("")
	h.backup("request", names...)
	eventually(t, "all are held", func() bool {
		waiting, err := h.control("jobs", "--active", "--json")
		return err == nil && strings.Count(waiting, `"reported"`) == len(names)
	})
	if got := h.metric("holdfast_frozen_instances"); got != fmt.Sprint(len(names)) {
		t.Errorf("frozen instances: %s", got)
	}

	docker.Act(t, ids["renamed"], "rename?name=touched-other")
	docker.Remove(t, ids["anew"])
	old := ids["anew"]
	ids["anew"] = docker.Run(t, spec("anew"))
	docker.Act(t, ids["anew"], "pause")
	docker.Act(t, ids["ran"], "unpause")
	docker.Act(t, ids["ran"], "pause")
	docker.Act(t, ids["stopped"], "start")
	docker.Act(t, ids["stopped"], "stop?t=1")
	if got := h.metric("holdfast_frozen_instances"); got != fmt.Sprint(len(names)) {
		t.Errorf("frozen instances, one of which has another name: %s", got)
	}
	if out, err := h.control("resume", "renamed"); err != nil {
		t.Errorf("resume: %v: %s", err, out)
	}
	eventually(t, "the renamed one runs", func() bool { return !docker.State(t, ids["renamed"]).Paused })
	away.Store(false)
	eventually(t, "all reports are there", func() bool {
		return len(p.got(failed)) == 3 && len(p.got(released)) == 1 && len(p.got("holdfast.instance.resumed")) == 1
	})
	why := map[string]string{}
	for _, e := range p.got(failed) {
		why[e.Instance], _ = data(t, e.Event)["reason"].(string)
	}
	for name, part := range map[string]string{
		"anew":    "the instance that was backed up (" + old + ") no more",
		"ran":     "someone else let the instance run and froze it again",
		"stopped": "was started, or let run, by someone else after it was backed up",
	} {
		if !strings.Contains(why[name], part) {
			t.Errorf("%s failed: %q", name, why[name])
		}
	}
	for name, want := range map[string]string{"renamed": "running", "anew": "paused", "ran": "running", "stopped": "exited", "alone": "exited"} {
		if got := docker.State(t, ids[name]); got.Status != want {
			t.Errorf("%s is %+v; want %s", name, got, want)
		}
	}
	if e := p.got(released)[0]; e.Instance != "alone" {
		t.Errorf("released: %s", e.Instance)
	}
	if got := h.metric("holdfast_frozen_instances"); got != "0" {
		t.Errorf("frozen instances in the end: %s", got)
	}
	h.stop()
}

// control runs a command of an operator on the host.
func (h *host) control(args ...string) (string, error) {
	out, err := exec.Command(program(h.t, "holdfast"), append(args, "--socket", filepath.Join(h.dir, "socket"))...).CombinedOutput()
	return string(out), err
}
