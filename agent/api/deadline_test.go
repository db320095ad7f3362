package api_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
)

// A command may say when the host is needed, and nothing else may.
func TestDeadline(t *testing.T) {
	for _, c := range []struct {
		path, body string
		status     int
		want       time.Time
		says       string
	}{
		{"backup", `{"instance_ids":["phone-1"],"deadline":"2026-11-23T22:15:00Z"}`, 200, time.Date(2026, 11, 23, 22, 15, 0, 0, time.UTC), ""},
		{"backup", `{"instance_id":"phone-1","deadline":"2026-11-24T06:15:00+08:00"}`, 200, time.Date(2026, 11, 23, 22, 15, 0, 0, time.UTC), ""},
		{"backup", `{"instance_id":"phone-1"}`, 200, time.Time{}, ""},
		{"backup", `{"instance_id":"phone-1","deadline":"soon"}`, 400, time.Time{}, "deadline: must be a time"},
		{"backup", `{"instance_id":"phone-1","deadline":1700000000}`, 400, time.Time{}, "deadline: must be a time"},
		{"backup", `{"instance_id":"phone-1","deadline":"2026-11-23T22:15:00"}`, 400, time.Time{}, "deadline: must be a time"},
		{"prepare", `{"instance_ids":["phone-1"],"deadline":"2026-11-23T22:15:00Z"}`, 400, time.Time{}, "deadline"},
	} {
		f := newFake()
		req := httptest.NewRequest(http.MethodPost, "/v1/instances/"+c.path, bytes.NewReader([]byte(c.body)))
		req.Header = hdr("x-request-id", "r", "x-auth-token", "t1")
		w := httptest.NewRecorder()
		api.NewHandler(f, tokens, api.Options{}).ServeHTTP(w, req)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || !f.deadline.Equal(c.want) {
			t.Errorf("%s %s: %d %s, deadline %v", c.path, c.body, w.Code, w.Body, f.deadline)
		}
	}
}
