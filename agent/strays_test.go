package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent"
	"holdfast/agent/api"
	"holdfast/agent/config"
)

// strays are the warnings for the host's configuration.
func (h *host) strays() string {
	h.t.Helper()
	cfg, err := config.Parse([]byte(h.cfg), "test.yaml")
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(agent.Strays(cfg), "\n")
}

// TestInstanceLeavesTheConfiguration: an instance that is held while the configuration loses it is
// warned of, listed, and let go as its tenant or an operator asks; by nobody else.
func TestInstanceLeavesTheConfiguration(t *testing.T) {
	for verb, end := range map[string]struct{ event, state string }{
		"resume":  {"holdfast.instance.resumed", "running"},
		"release": {"holdfast.instance.released", "stopped"},
	} {
		t.Run(verb, func(t *testing.T) {
			h := newHost(t)
			h.cfg += "\nrelease: control-plane\n"
			h.start()
			h.backup("acme", "r1", "phone-1")
			h.eventually("held with a backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
			with := h.cfg
			h.cfg = strings.ReplaceAll(h.cfg, "- id: phone-1", "- id: phone-9")
			for _, state := range []string{"runs", "rests"} {
				if got := h.strays(); !strings.Contains(got, `"phone-1" is held`) || strings.Count(got, "\n") > 0 {
					t.Errorf("while the agent %s, the warning is %q", state, got)
				}
				h.stop()
			}
			if h.cfg, with = with, h.cfg; h.strays() != "" {
				t.Errorf("a configuration that has the instance: %s", h.strays())
			}
			h.cfg = with
			h.start()
			if got := h.logs.String(); !strings.Contains(got, "not in the configuration any more") {
				t.Error("the start does not warn")
			}
			if a := h.call(http.MethodGet, "/v1/agent/instances", "acme", "r2", ""); !strings.Contains(string(a.Data), `"phone-1"`) || !strings.Contains(string(a.Data), `"frozen"`) {
				t.Errorf("the list of instances: %s", a.Data)
			}
			for _, call := range []struct{ method, path string }{
				{http.MethodGet, "/v1/agent/instances"}, {http.MethodPost, "/v1/agent/instances/phone-1/resume"}, {http.MethodPost, "/v1/agent/instances/phone-1/release"},
			} {
				a := h.call(call.method, call.path, "other", "r3", "")
				if call.method == http.MethodPost && a.Code != api.CodeNoPermission || strings.Contains(string(a.Data), "phone-1") {
					t.Errorf("another tenant: %+v", a)
				}
			}
			if a := h.call(http.MethodPost, "/v1/agent/instances/phone-1/"+verb, "acme", "r4", ""); a.Code != api.CodeOK {
				t.Errorf("%s: %+v", verb, a)
			}
			h.eventually("let go", func() bool { return h.plane.took(end.event, "phone-1") != nil })
			h.eventually("the job is over", func() bool { return h.strays() == "" && !notes(t, h.in("state/held")) })
			if got := h.state("phone-1"); got != end.state {
				t.Errorf("it is %s", got)
			}
			h.eventually("it is not known any more", func() bool { // the job ends a moment after it let the instance go
				return h.call(http.MethodPost, "/v1/agent/instances/phone-1/resume", "acme", "r5", "").Code == api.CodeNoPermission
			})
		})
	}
}

// notes tells whether there are notes of held instances.
func notes(t *testing.T, dir string) bool {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found) > 0
}

// TestStraysOfNothing: a host without a state folder, or with a journal that can't be read, has no
// warning and no damage from the look.
func TestStraysOfNothing(t *testing.T) {
	h := newHost(t)
	if got := h.strays(); got != "" {
		t.Errorf("no state folder: %s", got)
	}
	for _, content := range []string{"", "no journal", strings.Repeat("no journal", 2000)} {
		h.write("state/journal.db", content, 0o600)
		h.write("state/held/phone-1", "no note", 0o600)
		if got := h.strays(); !strings.Contains(got, `"phone-1" is held is damaged`) {
			t.Errorf("a damaged note: %s", got)
		}
		if b, err := os.ReadFile(h.in("state/journal.db")); err != nil || string(b) != content {
			t.Errorf("the look changed the journal: %d bytes, %v", len(b), err)
		}
	}
}
