package agent_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/audit"
)

// Every command is in the audit log once it is answered: by whom,
// from where, on what, and with which answer; no token is.
func TestCommandsAreAudited(t *testing.T) {
	h := newHost(t)
	h.cfg += "audit: {file: " + h.in("audit.log") + "}\n"
	h.start()
	h.tokens["nobody"] = "made-up-token"
	task := h.backup("acme", "r1", "phone-1", "phone-2")
	h.call(http.MethodGet, "/v1/instances/tasks/"+task, "acme", "r2", "") // no command
	h.call(http.MethodPost, "/v1/instances/backup", "acme", "r3", `{"instance_id":"phone-3"}`)
	for range 20 {
		h.call(http.MethodPost, "/v1/instances/backup", "nobody", "r4", `{"instance_id":"phone-1"}`)
	}
	if err := api.NewClient(h.in("s")).Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(h.in("audit.log")) // while it runs: the log has each answered call
	if err != nil {
		t.Fatal(err)
	}
	var got []audit.Entry
	for line := range strings.Lines(string(b)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	var said []string
	var unknown, unlisted uint64
	for _, e := range got {
		unlisted += e.Unlisted
		if e.Role == "" {
			unknown++
			continue
		}
		said = append(said, fmt.Sprintf("%s %s %s %s %v task=%v %d %s", e.Via, e.Role, e.Tenant, e.Call, e.Instances, e.Task == task, e.Status, e.Code))
	}
	want := []string{
		"token control-plane acme POST /v1/instances/backup [phone-1 phone-2] task=true 200 0",
		"token control-plane acme POST /v1/instances/backup [phone-3] task=false 400 " + api.CodeNoPermission,
		fmt.Sprintf("uid %d pid %d operator  POST /v1/agent/drain [] task=false 200 0", os.Getuid(), os.Getpid()),
	}
	if strings.Join(said, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log says\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	if unknown == 0 || unknown+unlisted != 20 || unknown > 5 {
		t.Errorf("of 20 calls of nobody %d are listed and %d counted", unknown, unlisted)
	}
	for who, token := range h.tokens {
		if strings.Contains(string(b), token) {
			t.Errorf("the token of %q is in the log", who)
		}
	}
	h.stop()
	s, err := audit.Verify(h.in("audit.log"), audit.Head{})
	if err != nil || !strings.Contains(h.logs.String(), s.Head.String()) {
		t.Errorf("%v; the head %s is not in the agent's own log", err, s.Head)
	}
}
