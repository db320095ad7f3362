package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/auth"
	"holdfast/agent/model"
	"holdfast/internal/obs/obstest"
)

const (
	otherTenant   = "2008600000104285462"
	user          = "user-1"
	userToken     = "token-that-names-a-user"
	otherToken    = "token-of-another-tenant"
	planeToken    = "token-for-every-tenant"
	readerToken   = "token-of-a-reader"
	operatorToken = "token-of-an-operator"

	backupPath = "/v1/instances/backup"
	taskPath   = "/v1/instances/tasks/"
	codes      = "KOOPHONE.API."
)

// addFolder adds an instance that nobody runs, with some files, unless the volume is to be missing.
func (h *host) addFolder(id, tenant string, missing bool) (volume string) {
	h.t.Helper()
	volume = filepath.Join(h.dir, "volumes", id)
	if !missing {
		must(h.t, os.MkdirAll(volume, 0o755))
		must(h.t, os.WriteFile(filepath.Join(volume, "file"), []byte(id), 0o600))
	}
	fmt.Fprintf(&h.instances, `
  - id: %s
    tenant: "%s"
    runtime: {none: {}}
    volumes: [{name: data, path: %s}]
`, id, tenant, volume)
	return volume
}

// allow adds a line to the file of tokens.
func (h *host) allow(token, who string) {
	h.t.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, "tokens"), os.O_APPEND|os.O_WRONLY, 0)
	must(h.t, err)
	_, err = fmt.Fprintln(f, auth.HashToken(token), who)
	must(h.t, err)
	must(h.t, f.Close())
}

// headers of a call, from names and values. A name may come twice.
func headers(pairs ...string) http.Header {
	out := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		out.Add(pairs[i], pairs[i+1])
	}
	return out
}

// as are the headers of a caller.
func as(token, requestID string) http.Header {
	return headers("x-auth-token", token, "x-request-id", requestID)
}

// send makes a call just as it is given, and returns the answer, its
// text and its headers. Each answer must have the contract's form.
func (h *host) send(method, path string, hd http.Header, body string) (answer, string, http.Header) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.api+path, strings.NewReader(body))
	must(h.t, err)
	req.Header = hd
	res, err := h.client.Do(req)
	must(h.t, err)
	raw, err := io.ReadAll(res.Body)
	must(h.t, err)
	must(h.t, res.Body.Close())
	a := answer{Status: res.StatusCode}
	if err := json.Unmarshal(raw, &a); err != nil || a.Code == "" || a.Msg == "" || res.Header.Get("Content-Type") != "application/json" {
		h.t.Fatalf("%s %s answers out of form: %d, %s: %s (%v)", method, path, res.StatusCode, res.Header.Get("Content-Type"), raw, err)
	}
	return a, string(raw), res.Header
}

// idList is the JSON of a list of n ids.
func idList(n int) string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%q", fmt.Sprintf("i%d", i))
	}
	return "[" + strings.Join(ids, ",") + "]"
}

// contractHost is a host with instances of two tenants and a token of each role, not yet started.
func contractHost(t *testing.T) (*host, *plane) {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	p := startPlane(t)
	h := newHost(t, p, "file://"+store)
	h.cli("vault", "create", "--vault", otherTenant)
	for _, id := range []string{"phone-1", "phone-2", "phone-3"} {
		h.addFolder(id, tenant, false)
	}
	h.addFolder("absent-1", tenant, true)
	h.addFolder("absent-2", tenant, true)
	h.addFolder("other-1", otherTenant, false)
	h.allow(userToken, "tenant="+tenant+" user="+user+" role=tenant")
	h.allow(otherToken, "tenant="+otherTenant+" role=tenant")
	h.allow(planeToken, "role=control-plane")
	h.allow(readerToken, "tenant="+tenant+" role=read-only")
	h.allow(operatorToken, "role=operator")
	return h, p
}

// TestContractRefusals: each wrong call is refused with its
// code, over TLS, by the shipped agent, and starts nothing.
func TestContractRefusals(t *testing.T) {
	h, p := contractHost(t)
	h.start("")
	good := as(token, "r1")
	const one = `{"instance_ids":["phone-1"]}`
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		code   string
		msg    string // part of it
	}{
		{"no headers", headers(), one, "0002", "x-request-id: missing"},
		{"no request id", headers("x-auth-token", token), one, "0002", "x-request-id: missing"},
		{"no token", headers("x-request-id", "r1"), one, "0005", "x-auth-token: missing"},
		{"empty token", as("", "r1"), one, "0005", "x-auth-token: missing"},
		{"two tokens", headers("x-request-id", "r1", "x-auth-token", token, "x-auth-token", operatorToken), one, "1000", "x-auth-token: given 2 times"},
		{"bad token", as("stolen", "r1"), one, "0000", "x-auth-token: not valid"},
		{"hash as token", as(auth.HashToken(token), "r1"), one, "0000", "x-auth-token: not valid"},
		{"reader", as(readerToken, "r1"), one, "1001", `the role "read-only" may not make this call`},

		{"101 ids", good, `{"instance_ids":` + idList(101) + `}`, "1000", "instance_ids: must hold 1 to 100 ids, got 101"},
		{"no ids", good, `{"instance_ids":[]}`, "1000", "instance_ids: must hold 1 to 100 ids, got 0"},
		{"no field", good, `{}`, "1000", "instance_ids: missing"},
		{"id twice", good, `{"instance_ids":["phone-1","phone-2","phone-1"]}`, "1000", `instance_ids[2]: "phone-1" is given twice`},
		{"both forms", good, `{"instance_ids":["phone-1"],"instance_id":"phone-1"}`, "1000", "instance_id: give it or instance_ids, not both"},
		{"bad id", good, `{"instance_ids":["phone-1","../phone-1"]}`, "1000", `instance_ids[1]: must be 1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got "../phone-1"`},
		{"bad single id", good, `{"instance_id":"-x"}`, "1000", `instance_id: must be 1 to 32`},
		{"long id", good, `{"instance_ids":["` + strings.Repeat("a", 33) + `"]}`, "1000", "instance_ids[0]: must be 1 to 32"},
		{"unknown field", good, `{"instance_ids":["phone-1"],"force":true}`, "1000", `"force": unknown field`},
		{"large body", good, `{"instance_ids":["phone-1"]` + strings.Repeat(" ", 64<<10) + `}`, "1000", "body: larger than 65536 bytes"},
		{"no JSON", good, "instance_ids=phone-1", "1000", "body: is not JSON"},
		{"no body", good, "", "1000", "body: is not JSON: ends too early"},
		{"another user", as(userToken, "r1"), `{"user_id":"user-2","instance_ids":["phone-1"]}`, "1000", `user_id: "user-2" is not the user of the token`},

		{"one of the batch is another tenant's", good, `{"instance_ids":["phone-1","other-1"]}`, "1001", `instance "other-1": `},
		{"unknown, to a tenant", good, `{"instance_ids":["phone-1","nobody-1","nobody-2"]}`, "1001", `instances "nobody-1", "nobody-2": `},
		{"unknown, to the control plane", as(planeToken, "r1"), `{"instance_ids":["nobody-1","phone-1","nobody-2"]}`, "4001", `instances "nobody-1", "nobody-2": does not exist on this host`},
		{"unknown, to an operator", as(operatorToken, "r1"), `{"instance_id":"nobody-1"}`, "4001", `instance "nobody-1": does not exist on this host`},
		{"two tenants", as(planeToken, "r1"), `{"instance_ids":["phone-1","other-1"]}`, "1012", `instances "phone-1", "other-1": do not belong to one tenant`},
		{"storage missing", good, `{"instance_ids":["absent-1","phone-1","absent-2"]}`, "5005", `instances "absent-1", "absent-2": its storage is not on this host`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, raw, _ := h.send(http.MethodPost, backupPath, tt.header, tt.body)
			if a.Status != http.StatusBadRequest || a.Code != codes+tt.code || !strings.Contains(a.Msg, tt.msg) || a.Data.TaskID != "" {
				t.Errorf("got  %d %s\nwant 400 %s%s %s", a.Status, raw, codes, tt.code, tt.msg)
			}
		})
	}

	// Invariant tenant-walls: the answers for another tenant's instance and
	// for an instance that is nowhere are alike, to the letter but for the id.
	t.Run("tenant walls", func(t *testing.T) {
		_, theirs, _ := h.send(http.MethodPost, backupPath, good, `{"instance_ids":["other-1"]}`)
		_, none, _ := h.send(http.MethodPost, backupPath, good, `{"instance_ids":["other-2"]}`)
		if strings.ReplaceAll(theirs, "other-1", "other-2") != none {
			t.Errorf("another tenant's: %snowhere: %s", theirs, none)
		}
		for _, verb := range []string{"release", "resume"} {
			_, theirs, _ := h.send(http.MethodPost, "/v1/agent/instances/other-1/"+verb, good, "")
			_, none, _ := h.send(http.MethodPost, "/v1/agent/instances/other-2/"+verb, good, "")
			if strings.ReplaceAll(theirs, "other-1", "other-2") != none {
				t.Errorf("%s another tenant's: %snowhere: %s", verb, theirs, none)
			}
		}
		_, mine, _ := h.send(http.MethodGet, "/v1/agent/instances", good, "")
		if strings.Contains(mine, "other-") || !strings.Contains(mine, "phone-1") {
			t.Errorf("a tenant sees %s", mine)
		}
	})

	t.Run("no such call", func(t *testing.T) {
		for _, tt := range []struct {
			method, path string
			status       int
			msg, allow   string
		}{
			{http.MethodPost, "/v1/instances/backups", 404, `path: no such call "/v1/instances/backups"`, ""},
			{http.MethodPost, backupPath + "/", 404, "path: no such call", ""},
			{http.MethodGet, "/", 404, `path: no such call "/"`, ""},
			{http.MethodGet, backupPath, 405, `method: "GET" is not one of POST`, "POST"},
			{http.MethodPost, taskPath + "x", 405, `method: "POST" is not one of GET`, "GET"},
		} {
			a, raw, hd := h.send(tt.method, tt.path, good, "")
			if a.Status != tt.status || a.Code != codes+"1000" || !strings.Contains(a.Msg, tt.msg) || hd.Get("Allow") != tt.allow {
				t.Errorf("%s %s: %d %s, Allow %q", tt.method, tt.path, a.Status, raw, hd.Get("Allow"))
			}
		}
	})

	t.Run("task", func(t *testing.T) {
		for _, tt := range []struct {
			header http.Header
			code   string
			msg    string
		}{
			{headers("x-auth-token", token), "0002", "x-request-id: missing"},
			{headers("x-request-id", "r1"), "0005", "x-auth-token: missing"},
			{as("stolen", "r1"), "0000", "x-auth-token: not valid"},
			{good, "1000", `task_id: no such task "none"`},
		} {
			a, raw, _ := h.send(http.MethodGet, taskPath+"none", tt.header, "")
			if a.Status != http.StatusBadRequest || a.Code != codes+tt.code || !strings.Contains(a.Msg, tt.msg) {
				t.Errorf("%v: %d %s", tt.header, a.Status, raw)
			}
		}
	})

	if _, jobs, _ := h.send(http.MethodGet, "/v1/agent/jobs", as(operatorToken, "r1"), ""); !strings.Contains(jobs, `"jobs":[]`) {
		t.Errorf("refused commands started jobs: %s", jobs)
	}
	if e := p.got(""); len(e) != 0 {
		t.Errorf("refused commands sent reports: %v", e)
	}
}

// TestContract: accepted commands in both forms, said again, while
// busy, after a restart, and draining.
func TestContract(t *testing.T) {
	h, p := contractHost(t)
	acknowledge := make(chan struct{})
	held := true
	defer func() {
		if held {
			close(acknowledge)
		}
	}()
	p.setAnswer(func(e model.Event) int {
		if e.Type == completed {
			<-acknowledge
		}
		return http.StatusOK
	})
	h.start("")
	post := func(token, requestID, body string) (answer, string) {
		t.Helper()
		a, raw, _ := h.send(http.MethodPost, backupPath, as(token, requestID), body)
		return a, raw
	}
	refused := func(what string, a answer, raw, code, msg string) {
		t.Helper()
		if a.Status != http.StatusBadRequest || a.Code != codes+code || !strings.Contains(a.Msg, msg) || a.Data.TaskID != "" {
			t.Errorf("%s: %d %s, want %s %s", what, a.Status, raw, code, msg)
		}
	}
	accepted := func(what string, a answer, raw string, ids ...string) {
		t.Helper()
		ok := a.Status == http.StatusOK && a.Code == "0" && a.Msg == "OK" && a.Data.TaskID != "" && len(a.Data.CmdJobs) == len(ids)
		for i := range a.Data.CmdJobs {
			ok = ok && a.Data.CmdJobs[i].InstanceID == ids[i] && a.Data.CmdJobs[i].JobID != ""
		}
		if !ok {
			t.Fatalf("%s: %d %s", what, a.Status, raw)
		}
	}

	const one = `{"instance_ids":["phone-1"]}`
	first, firstRaw := post(token, "r1", one)
	accepted("the list", first, firstRaw, "phone-1")
	if a, raw, hd := h.send(http.MethodGet, taskPath+first.Data.TaskID, as(token, "q1"), ""); len(a.Data.Jobs) != 1 ||
		a.Data.Jobs[0].Status != 1 || a.Data.Jobs[0].JobID != first.Data.CmdJobs[0].JobID || hd.Get("X-Request-Id") != "q1" {
		t.Errorf("the task: %s", raw)
	}
	single, raw := post(userToken, "r2", `{"user_id":"`+user+`","instance_id":"phone-2"}`)
	accepted("the single id with a user", single, raw, "phone-2")
	// Invariant tenant-walls: request ids of two tenants do not meet, and a task is its tenant's.
	other, raw := post(otherToken, "r1", `{"instance_ids":["other-1"]}`)
	accepted("another tenant, the same request id", other, raw, "other-1")
	if other.Data.TaskID == first.Data.TaskID {
		t.Error("two tenants share a task")
	}
	a, raw, _ := h.send(http.MethodGet, taskPath+other.Data.TaskID, as(token, "q2"), "")
	refused("another tenant's task", a, raw, "1000", "task_id: no such task")

	a, raw = post(token, "r3", one)
	refused("busy", a, raw, "2006", `instance "phone-1": is being backed up`)
	a, raw = post(token, "r3", `{"instance_ids":["phone-3","phone-2","phone-1"]}`)
	refused("two of a batch busy", a, raw, "2006", `instances "phone-2", "phone-1": is being backed up`)

	// Invariant same-command-once.
	again := func(when string) {
		t.Helper()
		if _, raw := post(token, "r1", one); raw != firstRaw {
			t.Errorf("%s the same command answers\n%s, first it was\n%s", when, raw, firstRaw)
		}
		if _, raw := post(token, "r1", ` {"instance_ids": ["phone-1"]} `); raw != firstRaw {
			t.Errorf("%s the same command with spaces answers\n%s, first it was\n%s", when, raw, firstRaw)
		}
		a, raw := post(token, "r1", `{"instance_ids":["phone-3"]}`)
		refused(when+" another body", a, raw, "1000", `x-request-id: "r1" was used before with another body`)
		a, raw = post(token, "r1", `{"instance_ids":["phone-1","phone-3"]}`)
		refused(when+" a longer body", a, raw, "1000", `x-request-id: "r1" was used before with another body`)
	}
	again("while it works")
	h.kill()
	h.start("")
	again("after a kill")
	a, raw = post(token, "r3", one)
	refused("busy after a kill", a, raw, "2006", `instance "phone-1": is being backed up`)

	held = false
	close(acknowledge)
	eventually(t, "the tasks are done", func() bool {
		done := 0
		for task, token := range map[string]string{first.Data.TaskID: token, single.Data.TaskID: token, other.Data.TaskID: otherToken} {
			a, _, _ := h.send(http.MethodGet, taskPath+task, as(token, "q3"), "")
			if len(a.Data.Jobs) == 1 && a.Data.Jobs[0].Status == 2 && a.Data.Jobs[0].ErrorCode == "0" {
				done++
			}
		}
		return done == 3
	})
	again("when it is done")
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	h.start("")
	again("after a restart")

	a, raw, _ = h.send(http.MethodPost, "/v1/agent/drain", as(token, "d1"), "")
	refused("a tenant drains", a, raw, "1001", `the role "tenant" may not make this call`)
	if a, raw, _ := h.send(http.MethodPost, "/v1/agent/drain", as(operatorToken, "d1"), ""); a.Status != http.StatusOK || a.Code != "0" {
		t.Fatalf("drain: %s", raw)
	}
	a, raw, hd := h.send(http.MethodPost, backupPath, as(token, "r4"), `{"instance_ids":["phone-3"]}`)
	if a.Status != http.StatusInternalServerError || a.Code != codes+"9999" || hd.Get("Retry-After") == "" || !strings.Contains(a.Msg, "shutting down") {
		t.Errorf("draining: %d %s, Retry-After %q", a.Status, raw, hd.Get("Retry-After"))
	}
	again("while it drains")
	reports := map[string]bool{} // one may have come twice: the kill cut its acknowledgement off
	for _, e := range p.got(completed) {
		reports[e.ID] = true
	}
	if len(reports) != 3 {
		t.Errorf("%d completed reports, want one for each of 3 commands", len(reports))
	}
}
