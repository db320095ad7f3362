package api_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/internal/contain"
)

// ids gives a JSON list of n ids.
func ids(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%q", fmt.Sprintf("i%d", i))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// Every row of the contract, through real HTTP.
func TestBackupContract(t *testing.T) {
	good := hdr("x-request-id", "r1", "x-auth-token", "t1")
	const path = "/v1/instances/backup"
	one := `{"instance_ids":["phone-1"]}`
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		status int
		code   string // after KOOPHONE.API.
		msg    string // part of the message
	}{
		{"accepted", good, one, 200, "0", "OK"},
		{"example's form", good, `{"user_id": "u1", "instance_id": "phone-1"}`, 200, "0", "OK"},
		{"user named by nobody", hdr("x-request-id", "r1", "x-auth-token", "t1-nouser"), `{"user_id":"1008600000104285462","instance_ids":["phone-1"]}`, 200, "0", "OK"},
		{"escaped keys and ids are the same text", good, `{"instance\u005fids":["phone\u002d1"]}`, 200, "0", "OK"},
		{"space around", good, " \n" + one + "\r\n\t ", 200, "0", "OK"},

		{"no request id", hdr("x-auth-token", "t1"), one, 400, "0002", "x-request-id: missing"},
		{"empty request id", hdr("x-request-id", "", "x-auth-token", "t1"), one, 400, "0002", "x-request-id: missing"},
		{"no headers: request id first", hdr(), one, 400, "0002", "x-request-id: missing"},
		{"request id with space", hdr("x-request-id", "a b", "x-auth-token", "t1"), one, 400, "1000", `x-request-id: must be 1 to 128 visible ASCII characters, got "a b"`},
		{"request id long", hdr("x-request-id", strings.Repeat("r", 129), "x-auth-token", "t1"), one, 400, "1000", "x-request-id: must be"},
		{"request id twice", hdr("x-request-id", "a", "x-request-id", "b", "x-auth-token", "t1"), one, 400, "1000", "x-request-id: given 2 times"},
		{"no token", hdr("x-request-id", "r1"), one, 400, "0005", "x-auth-token: missing"},
		{"empty token", hdr("x-request-id", "r1", "x-auth-token", " "), one, 400, "0005", "x-auth-token: missing"},
		{"two tokens", hdr("x-request-id", "r1", "x-auth-token", "t1", "x-auth-token", "ops"), one, 400, "1000", "x-auth-token: given 2 times"},
		{"unknown token", hdr("x-request-id", "r1", "x-auth-token", "stolen"), one, 400, "0000", "x-auth-token: not valid"},
		{"long token", hdr("x-request-id", "r1", "x-auth-token", strings.Repeat("x", api.MaxTokenBytes+1)), one, 400, "0000", "x-auth-token: not valid"},
		{"token before body", hdr("x-request-id", "r1", "x-auth-token", "stolen"), "{", 400, "0000", "x-auth-token: not valid"},
		{"IAM away", hdr("x-request-id", "r1", "x-auth-token", "iam-down"), one, 500, api.CodeAuthAway, "cannot be checked now"},
		{"authenticator broken", hdr("x-request-id", "r1", "x-auth-token", "broken"), one, 500, "9999", "internal service error, reference "},
		{"reader commands", hdr("x-request-id", "r1", "x-auth-token", "t3-read"), one, 400, "1001", `the role "read-only" may not make this call`},
		{"no role", hdr("x-request-id", "r1", "x-auth-token", "nothing"), one, 400, "1001", `the role "cleaner"`},

		{"empty body", good, "", 400, "1000", "body: is not JSON: ends too early"},
		{"no JSON", good, "instance_ids=phone-1", 400, "1000", "body: is not JSON"},
		{"cut JSON", good, one[:20], 400, "1000", "body: is not JSON: ends too early"},
		{"not UTF-8", good, "{\"instance_id\":\"\xff\"}", 400, "1000", "body: is not UTF-8"},
		{"list as body", good, `["phone-1"]`, 400, "1000", `body: must be a JSON object, got "[\"phone-1\"]"`},
		{"null as body", good, `null`, 400, "1000", "body: must be a JSON object"},
		{"trailing data", good, one + "{}", 400, "1000", "body: goes on after the JSON object"},
		{"trailing rubbish", good, one + "]", 400, "1000", "body: goes on after the JSON object"},
		{"too large", good, `{"instance_ids":["` + strings.Repeat("a", api.MaxBodyBytes) + `"]}`, 400, "1000", "body: larger than 65536 bytes"},
		{"large and all space", good, one + strings.Repeat(" ", api.MaxBodyBytes), 400, "1000", "body: larger than 65536 bytes"},
		{"deep", good, `{"x":` + strings.Repeat("[", 30000), 400, "1000", "body: is not JSON"},
		{"unknown field", good, `{"instance_ids":["phone-1"],"force":true}`, 400, "1000", `"force": unknown field`},
		{"field in other case", good, `{"Instance_Ids":["phone-1"]}`, 400, "1000", `"Instance_Ids": unknown field`},
		{"field twice", good, `{"instance_ids":["phone-1"],"instance_ids":["phone-2"]}`, 400, "1000", `"instance_ids": field given twice`},
		{"field twice by escape", good, `{"instance_ids":["phone-1"],"instance\u005fids":["phone-2"]}`, 400, "1000", `"instance_ids": field given twice`},
		{"no instances", good, `{}`, 400, "1000", "instance_ids: missing"},
		{"only a user", good, `{"user_id":"u1"}`, 400, "1000", "instance_ids: missing"},
		{"both forms", good, `{"instance_ids":["phone-1"],"instance_id":"phone-1"}`, 400, "1000", "instance_id: give it or instance_ids, not both"},
		{"empty list", good, `{"instance_ids":[]}`, 400, "1000", "instance_ids: must hold 1 to 100 ids, got 0"},
		{"101", good, `{"instance_ids":` + ids(101) + `}`, 400, "1000", "instance_ids: must hold 1 to 100 ids, got 101"},
		{"100 are looked at", good, `{"instance_ids":` + ids(100) + `}`, 400, "1001", `"i99"`},
		{"null list", good, `{"instance_ids":null}`, 400, "1000", `instance_ids: must be an array of strings, got "null"`},
		{"text for list", good, `{"instance_ids":"phone-1"}`, 400, "1000", "instance_ids: must be an array of strings"},
		{"number in list", good, `{"instance_ids":["phone-1",7]}`, 400, "1000", `instance_ids[1]: must be a string, got "7"`},
		{"null in list", good, `{"instance_ids":[null]}`, 400, "1000", `instance_ids[0]: must be a string, got "null"`},
		{"null id", good, `{"instance_id":null}`, 400, "1000", `instance_id: must be a string, got "null"`},
		{"duplicate", good, `{"instance_ids":["phone-1","phone-2","phone-1"]}`, 400, "1000", `instance_ids[2]: "phone-1" is given twice`},
		{"33 characters", good, `{"instance_ids":["` + strings.Repeat("a", 33) + `"]}`, 400, "1000", `instance_ids[0]: must be 1 to 32`},
		{"empty id", good, `{"instance_id":""}`, 400, "1000", `instance_id: must be 1 to 32`},
		{"path as id", good, `{"instance_id":"../../etc"}`, 400, "1000", `got "../../etc"`},
		{"dot first", good, `{"instance_id":".x"}`, 400, "1000", `got ".x"`},
		{"newline in id", good, `{"instance_id":"a\n"}`, 400, "1000", `got "a\n"`},
		{"letters of another script", good, `{"instance_id":"téléphone"}`, 400, "1000", `instance_id: must be`},
		{"escape sequence in id", good, `{"instance_id":"\u001b[31m"}`, 400, "1000", `got "\x1b[31m"`},
		{"long value is cut", good, `{"instance_id":"` + strings.Repeat("z", 5000) + `"}`, 400, "1000", `zz"... (5000 bytes)`},
		{"another user", good, `{"user_id":"u2","instance_ids":["phone-1"]}`, 400, "1000", `user_id: "u2" is not the user of the token`},
		{"user of wrong type", good, `{"user_id":1008600000104285462,"instance_ids":["phone-1"]}`, 400, "1000", `user_id: must be a string of at most 128 bytes, got "1008600000104285462"`},
		{"user too long", good, `{"user_id":"` + strings.Repeat("u", 129) + `","instance_ids":["phone-1"]}`, 400, "1000", "user_id: must be a string of at most 128 bytes"},

		{"another tenant's", good, `{"instance_ids":["phone-1","phone-9"]}`, 400, "1001", `instance "phone-9": not there, or not yours`},
		{"nobody's, to a tenant", good, `{"instance_ids":["phone-x"]}`, 400, "1001", `instance "phone-x": not there, or not yours`},
		{"nobody's, to the control plane", hdr("x-request-id", "r1", "x-auth-token", "plane"), `{"instance_ids":["phone-9","x","y"]}`, 400, "4001", `instances "x", "y": not on this host`},
		{"operator", hdr("x-request-id", "r1", "x-auth-token", "ops"), `{"instance_ids":["phone-9"]}`, 200, "0", "OK"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t)
			r := b.send(http.MethodPost, path, tt.header, strings.NewReader(tt.body))
			code := tt.code
			if code != "0" && len(code) == 4 {
				code = "KOOPHONE.API." + code
			}
			if r.status != tt.status || r.Code != code || !strings.Contains(r.Msg, tt.msg) {
				t.Errorf("got %d %s %s\nwant %d %s %s", r.status, r.Code, r.Msg, tt.status, code, tt.msg)
			}
			if len(r.raw) > 20_000 {
				t.Errorf("an answer of %d bytes", len(r.raw))
			}
			if code == "0" {
				if want := `"task_id":"task-r1","cmd_jobs":[{"instance_id":"phone-`; !strings.Contains(string(r.Data), want) {
					t.Errorf("data: %s", r.Data)
				}
			} else if r.Data != nil {
				t.Errorf("a refusal with data: %s", r.Data)
			}
			if calls := b.called(); tt.code != "0" && tt.code != "1001" && tt.code != "4001" && calls != "" {
				t.Errorf("the service was asked: %s", calls)
			}
			if v := tt.header.Values("x-request-id"); len(v) == 1 && len(v[0]) == 2 && r.header.Get("X-Request-Id") != v[0] {
				t.Errorf("X-Request-Id %q, sent %q", r.header.Get("X-Request-Id"), v[0])
			}
			if e := <-b.seen; e.Status != r.status || e.Code != r.Code || e.Route != path {
				t.Errorf("observed %+v", e)
			}
		})
	}
}

// Refusals that come from the Service: each code with its status.
func TestServiceCodes(t *testing.T) {
	b := newBed(t)
	for _, tt := range []struct {
		err    error
		status int
		retry  string
	}{
		{api.RefuseInstances(api.CodeInRecovery, []string{"phone-1"}, "is being restored"), 400, ""},
		{api.RefuseInstances(api.CodeInBackup, []string{"phone-1"}, "is being backed up"), 400, ""},
		{api.RefuseInstances(api.CodeNotRunning, []string{"phone-1"}, "is not restored to this host"), 400, ""},
		{api.RefuseInstances(api.CodeManyTenants, []string{"phone-1", "phone-9"}, "belong to different tenants"), 400, ""},
		{api.Busy(1500*time.Millisecond, "the queue is full"), 500, "2"},
		{fmt.Errorf("accept: %w", api.Busy(time.Minute, "draining")), 500, "60"},
		{&api.Error{Code: api.CodeInBackup, Msg: "made by hand"}, 400, ""},
	} {
		b.fail = tt.err
		r := b.send(http.MethodPost, "/v1/instances/backup", hdr("x-request-id", "r", "x-auth-token", "t1"), strings.NewReader(`{"instance_id":"phone-1"}`))
		if r.status != tt.status || r.header.Get("Retry-After") != tt.retry || !strings.Contains(tt.err.Error(), r.Code+": "+r.Msg) {
			t.Errorf("%v: %d %s, Retry-After %q", tt.err, r.status, r.raw, r.header.Get("Retry-After"))
		}
	}
}

// Invariant same-command-once, as far as the handler goes:
// the meaning of a body makes the command, not its spelling.
func TestSameCommand(t *testing.T) {
	b := newBed(t)
	post := func(body string) reply {
		return b.send(http.MethodPost, "/v1/instances/backup", hdr("x-request-id", "r", "x-auth-token", "t1"), strings.NewReader(body))
	}
	first := post(`{"user_id":"u1","instance_ids":["phone-1"]}`)
	for _, same := range []string{`{"user_id":"u1","instance_ids":["phone-1"]}`, `{ "instance_ids" : [ "phone-1" ], "user_id": "u1" }`} {
		if r := post(same); r.raw != first.raw {
			t.Errorf("%s: %s, first %s", same, r.raw, first.raw)
		}
	}
	for _, other := range []string{`{"instance_ids":["phone-1"]}`, `{"user_id":"u1","instance_ids":["phone-2"]}`, `{"user_id":"u1","instance_ids":["phone-1","phone-2"]}`} {
		if r := post(other); r.Code != api.CodeParameter || r.Msg != `x-request-id: "r" was used for another command` {
			t.Errorf("%s: %s", other, r.raw)
		}
	}
}

func TestTaskContract(t *testing.T) {
	b := newBed(t)
	b.msg = "x" + strings.Repeat("é", 1000) + "\xff"
	get := func(path, token string) reply {
		return b.send(http.MethodGet, path, hdr("x-request-id", "r", "x-auth-token", token), nil)
	}
	r := get("/v1/instances/tasks/task-t1", "t1")
	want := `{"jobs":[{"job_id":"job-1","status":1,"error_code":"0","error_msg":"OK","execute_msg":"x` + strings.Repeat("é", 511) +
		`"},{"job_id":"job-2","status":-1,"error_code":"KOOPHONE.API.9999","error_msg":"store unavailable","execute_msg":""}]}`
	if r.status != 200 || r.Code != "0" || string(r.Data) != want {
		t.Errorf("%d %s", r.status, r.raw)
	}
	if r := b.send(http.MethodGet, "/v1/instances/tasks/task-t1", hdr("x-auth-token", "t1"), nil); r.Code != api.CodeNoRequestID {
		t.Errorf("no request id: %s", r.raw)
	}
	if r := b.send(http.MethodGet, "/v1/instances/tasks/task-t1", hdr("x-request-id", "r"), nil); r.Code != api.CodeNoHeader {
		t.Errorf("no token: %s", r.raw)
	}
	// Invariant tenant-walls: another tenant's task and none answer
	// alike, to the letter but for the id.
	theirs, none := get("/v1/instances/tasks/task-t2", "t1"), get("/v1/instances/tasks/task-tX", "t1")
	if theirs.status != 400 || theirs.Code != api.CodeParameter || strings.ReplaceAll(theirs.raw, "task-t2", "task-tX") != none.raw {
		t.Errorf("another tenant's: %s\nnone: %s", theirs.raw, none.raw)
	}
	if r := get("/v1/instances/tasks/"+strings.Repeat("a", 500), "t1"); r.Code != api.CodeParameter || len(r.raw) > 300 {
		t.Errorf("long id: %s", r.raw)
	}
	if r := get("/v1/instances/tasks/task%2Ft1", "t1"); r.Code != api.CodeParameter || !strings.Contains(r.Msg, `"task/t1"`) {
		t.Errorf("escaped slash: %s", r.raw)
	}
}

// A request for no call of this API is answered in the same form.
func TestUnknownPathsAndMethods(t *testing.T) {
	b := newBed(t)
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{http.MethodGet, "/", 404, ""},
		{http.MethodGet, "/v1/instances", 404, ""},
		{http.MethodPost, "/v1/instances/backup/", 404, ""},
		{http.MethodPost, "//v1/instances/backup", 404, ""},
		{http.MethodPost, "/v1/./instances/backup", 404, ""},
		{http.MethodGet, "/v1/instances/tasks/", 404, ""},
		{http.MethodGet, "/v1/instances/tasks/%2e%2e", 404, ""},
		{http.MethodGet, "/%00", 404, ""},
		{http.MethodGet, "/v1/instances/backup", 405, "POST"},
		{http.MethodDelete, "/v1/instances/tasks/x", 405, "GET"},
		{"HACK", "/v1/agent/drain", 405, "POST"},
		{http.MethodOptions, "/v1/instances/backup", 405, "POST"},
		{http.MethodHead, "/nothing", 404, ""},
		{http.MethodHead, "/v1/agent/tasks/task-t1/events", 405, "GET"},
	} {
		r := b.send(tt.method, tt.path, hdr(), nil)
		if r.status != tt.status || r.header.Get("Allow") != tt.allow || tt.method != http.MethodHead && r.Code != api.CodeParameter {
			t.Errorf("%s %s: %d %s (Allow %q)", tt.method, tt.path, r.status, r.raw, r.header.Get("Allow"))
		}
	}
}

// An internal failure and a panic tell the caller a reference and
// nothing else, and the log the rest.
func TestInternalFailures(t *testing.T) {
	for name, arm := range map[string]func(*fake){
		"error": func(f *fake) { f.fail = fmt.Errorf("open /var/lib/holdfast/journal: inner detail") },
		"panic": func(f *fake) { f.panics = "inner detail" },
		"panic on another goroutine": func(f *fake) {
			var g contain.Group
			g.Go(func() error { panic("inner detail") })
			f.fail = g.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			arm(b.fake)
			r := b.send(http.MethodPost, "/v1/instances/backup", hdr("x-request-id", "r77", "x-auth-token", "t1"), strings.NewReader(`{"instance_id":"phone-1"}`))
			ref, ok := strings.CutPrefix(r.Msg, "internal service error, reference ")
			if r.status != 500 || r.Code != api.CodeInternal || !ok || len(ref) != 16 {
				t.Fatalf("%d %s", r.status, r.raw)
			}
			if e := <-b.seen; e.Panicked != strings.HasPrefix(name, "panic") || e.Reference != ref || e.Caller.Tenant != "t1" || e.Instances[0] != "phone-1" {
				t.Errorf("observed %+v", e)
			}
			log := b.log.String()
			for _, want := range []string{"reference=" + ref, "inner detail", "request_id=r77", "level=ERROR"} {
				if !strings.Contains(log, want) {
					t.Errorf("no %s in the log: %s", want, log)
				}
			}
			if strings.Contains(log, "x-auth-token") || strings.Count(log, "\n") != 1 {
				t.Errorf("log: %s", log)
			}
			// The server goes on.
			b.fail, b.panics = nil, nil
			if r := b.send(http.MethodGet, "/v1/instances/tasks/task-t1", hdr("x-request-id", "r", "x-auth-token", "t1"), nil); r.status != 200 {
				t.Errorf("afterwards: %s", r.raw)
			}
		})
	}
}

// Old versions of TLS are refused before a byte of HTTP.
func TestTLSVersion(t *testing.T) {
	b := newBed(t)
	tr := b.http.Transport.(*http.Transport)
	tr.TLSClientConfig.MaxVersion = tls.VersionTLS12
	resp, err := b.http.Get(b.url)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("TLS %x was taken", resp.TLS.Version)
	}
	if !strings.Contains(err.Error(), "protocol version") {
		t.Error(err)
	}
}

// endlessBody gives spaces for ever.
type endlessBody struct{ n atomic.Int64 }

func (s *endlessBody) Read(p []byte) (int, error) {
	s.n.Add(int64(len(p)))
	return copy(p, bytes.Repeat([]byte(" "), len(p))), nil
}

// A body without end is refused after the limit; it is not read on.
func TestEndlessBody(t *testing.T) {
	b := newBed(t)
	body := &endlessBody{}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/v1/instances/backup", io.NopCloser(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = hdr("x-request-id", "r", "x-auth-token", "t1")
	resp, err := b.http.Do(req)
	if err == nil {
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 400 || !bytes.Contains(data, []byte("body: larger than 65536 bytes")) {
			t.Errorf("%d %s", resp.StatusCode, data)
		}
	}
	if n := body.n.Load(); n > 8<<20 { // what fits into the buffers on the way
		t.Errorf("%d bytes were taken", n)
	}
}
