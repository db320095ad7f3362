package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// recorder is a Service that accepts every command and keeps the last.
type recorder struct {
	*fake
	ids    []string
	digest [32]byte
}

func (r *recorder) Backup(_ context.Context, _ model.Caller, _ string, d [32]byte, ids []string, _ time.Time) (api.TaskAnswer, error) {
	r.ids, r.digest = ids, d
	return api.TaskAnswer{TaskID: "t"}, nil
}

// Any body is answered in the contract's form with
// 200 or 400, and an accepted body keeps the limits.
func FuzzBackupBody(f *testing.F) {
	f.Add([]byte(`{"instance_ids":["phone-1","phone-2"]}`))
	f.Add([]byte(`{"user_id":"u1","instance_id":"phone-1"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		svc := &recorder{fake: newFake()}
		h := api.NewHandler(svc, tokens, api.Options{})
		req := httptest.NewRequest(http.MethodPost, "/v1/instances/backup", bytes.NewReader(body))
		req.Header = hdr("x-request-id", "r", "x-auth-token", "t1")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		checkAnswer(t, w)
		if (w.Code == http.StatusOK) != (svc.ids != nil) {
			t.Fatalf("%d, but the service got %q", w.Code, svc.ids)
		}
		if len(svc.ids) > api.MaxInstances {
			t.Errorf("%d ids", len(svc.ids))
		}
		seen := map[string]bool{}
		for _, id := range svc.ids {
			if seen[id] || id == "" || len(id) > 32 || strings.ContainsAny(id, "/\x00\n ") || id[0] == '.' || id[0] == '-' {
				t.Errorf("accepted id %q of %q", id, svc.ids)
			}
			seen[id] = true
		}
		if w.Code == http.StatusOK { // what we accept, any other parser reads the same
			var v struct {
				ID  string   `json:"instance_id"`
				IDs []string `json:"instance_ids"`
			}
			if err := json.Unmarshal(body, &v); err != nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
			if v.ID != "" {
				v.IDs = append(v.IDs, v.ID)
			}
			if strings.Join(v.IDs, " ") != strings.Join(svc.ids, " ") {
				t.Errorf("%q against %q", v.IDs, svc.ids)
			}
		}
	})
}

// Any request that net/http lets through is answered in the
// contract's form, without a panic or a 500.
func FuzzHandler(f *testing.F) {
	f.Add([]byte("POST /v1/instances/backup HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nX-Auth-Token: t1\r\nContent-Length: 25\r\n\r\n{\"instance_id\":\"phone-1\"}"))
	f.Add([]byte("GET /v1/instances/tasks/task-t1 HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nX-Auth-Token: ops\r\n\r\n"))
	f.Add([]byte("GET /v1/agent/jobs?active=true&instance=%00 HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nX-Auth-Token: ops\r\n\r\n"))
	f.Add([]byte("POST /v1/agent/instances/a%2fb/release HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nX-Auth-Token: plane\r\n\r\n"))
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"))
	f.Add([]byte("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
		if err != nil {
			return
		}
		for _, h := range []http.Handler{
			api.NewHandler(&recorder{fake: newFake()}, tokens, api.Options{}),
			api.NewOperatorHandler(&recorder{fake: newFake()}, api.Options{}),
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req.WithContext(t.Context()))
			if strings.HasSuffix(w.Header().Get("Content-Type"), "json") && w.Header().Get("Content-Type") == "application/x-ndjson" {
				continue // a stream of no events
			}
			if tok := req.Header.Get("X-Auth-Token"); tok == "iam-down" || tok == "broken" {
				continue // those tokens stand for a failure of ours
			}
			if w.Header().Get("Content-Type") != "text/event-stream" {
				checkAnswer(t, w)
			}
		}
	})
}

func checkAnswer(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	var a struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Code == "" || a.Msg == "" {
		t.Fatalf("not an answer of the contract: %v: %q", err, w.Body)
	}
	if w.Code >= 500 || (w.Code == http.StatusOK) != (a.Code == api.CodeOK) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !utf8.ValidString(a.Msg) || strings.ContainsAny(a.Msg, "\r\n\x1b\x00") {
		t.Errorf("raw characters in the message %q", a.Msg)
	}
}
