package api_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"holdfast/agent/api"
)

func TestThrottle(t *testing.T) {
	b := newBed(t)
	as := func(token string) http.Header { return hdr("x-request-id", "r", "x-auth-token", token) }
	const sched, conf, set = `"from":"schedule"`, `"from":"configuration"`, `"from":"operator"`
	answer := func(up, down, requests string) string {
		return `{"up":{"limit":` + up + `},"down":{"limit":` + down + `},"requests":{"limit":` + requests +
			`},"next_change":"1970-01-01T00:33:20Z","in_flight":3,"waiting":0,"level":8}`
	}
	for _, tt := range []struct{ body, want string }{
		{`{}`, answer("5242880,"+sched, "0,"+conf, "0,"+conf)},
		{`{"up":0}`, answer("0,"+set, "0,"+conf, "0,"+conf)},
		{`{"up":16384,"down":1099511627776,"requests":100000}`, answer("16384,"+set, "1099511627776,"+set, "100000,"+set)},
		// the earlier limits are gone
		{"{ \"requests\" : 1\n}", answer("5242880,"+sched, "0,"+conf, "1,"+set)},
	} {
		if r := b.send(http.MethodPut, "/v1/agent/throttle", as("ops"), strings.NewReader(tt.body)); r.Code != "0" || string(r.Data) != tt.want {
			t.Errorf("%s: %s, want %s", tt.body, r.raw, tt.want)
		}
		if r := b.send(http.MethodGet, "/v1/agent/throttle", as("ops"), nil); r.Code != "0" || string(r.Data) != tt.want {
			t.Errorf("after %s: %s, want %s", tt.body, r.raw, tt.want)
		}
	}
	for body, want := range map[string]string{
		``: "body: is not JSON", `[]`: "body: must be a JSON object", `{"up":1,"up":1}`: `up: must be`,
		`{"up":0,"up":0}`: `"up": field given twice`, `{"upload":0}`: `"upload": unknown field`,
		`{"up":-1}`:    "up: must be 0 for no limit or a whole number from 16384 to 1099511627776, got \"-1\"",
		`{"up":16383}`: "up: must be", `{"down":1099511627777}`: "down: must be", `{"up":null}`: `got "null"`, `{"up":"0"}`: "up: must be",
		`{"up":1e6}`: "up: must be", `{"up":20000.0}`: "up: must be", `{"up":99999999999999999999}`: "up: must be", `{"up":false}`: "up: must be",
		`{"requests":100001}`: "requests: must be 0 for no limit or a whole number from 1 to 100000", `{"requests":0.5}`: "requests: must be",
	} {
		if r := b.send(http.MethodPut, "/v1/agent/throttle", as("ops"), strings.NewReader(body)); r.Code != api.CodeParameter || !strings.Contains(r.Msg, want) {
			t.Errorf("%s: %s, want %s", body, r.raw, want)
		}
	}
	if r := b.send(http.MethodPost, "/v1/agent/throttle", as("ops"), strings.NewReader("{}")); r.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.raw)
	}
}

func TestClientThrottle(t *testing.T) {
	f, c, _, _ := newSocket(t)
	up, none := int64(1<<20), int64(0)
	got, err := c.SetThrottle(t.Context(), api.ThrottleSetting{Up: &up, Requests: &none})
	if err != nil || got.Up != (api.Limit{Limit: up, From: api.FromOperator}) || got.Requests.From != api.FromOperator || got.Down.From != api.FromConfiguration || !got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
	if again, err := c.Throttle(t.Context()); err != nil || again != got {
		t.Errorf("%+v, %v, want %+v", again, err, got)
	}
	if f.set.Down != nil {
		t.Error("what was not set arrived as set")
	}
	got, err = c.SetThrottle(t.Context(), api.ThrottleSetting{Up: &none})
	if err != nil || got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
	little := int64(5)
	var e *api.Error
	if _, err := c.SetThrottle(t.Context(), api.ThrottleSetting{Down: &little}); !errors.As(err, &e) || e.Code != api.CodeParameter {
		t.Errorf("too little: %v", err)
	}
}
