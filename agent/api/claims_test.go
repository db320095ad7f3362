package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

func (f *fake) Claims(_ context.Context, _ model.Caller, id string) ([]api.ClaimInfo, error) {
	at := time.Unix(1000, 0).UTC()
	return []api.ClaimInfo{{InstanceID: "phone-1", Host: "host-2", JobID: "j", BackupID: "b", Since: at, Renewed: at, SilentSeconds: 7, Took: 1, Reason: "gone"}},
		f.note("claims", id)
}

func (f *fake) TakeOverClaim(_ context.Context, _ model.Caller, id, reason string, force bool) ([]api.ClaimInfo, error) {
	if !force {
		return nil, api.RefuseInstances(api.CodeInRecovery, []string{id}, "host-2 gives signs of life")
	}
	return []api.ClaimInfo{{InstanceID: id, Host: "host-2", JobID: "j"}}, f.note("take-over-claim", id, reason)
}

// TestClaims holds the calls about claims through real HTTP: the allowed
// bodies, and that nobody but an operator gets in.
func TestClaims(t *testing.T) {
	ops, tenant := hdr("x-request-id", "r1", "x-auth-token", "ops"), hdr("x-request-id", "r1", "x-auth-token", "t1")
	const list, take = "/v1/agent/claims", "/v1/agent/instances/phone-1/take-over-claim"
	for _, tt := range []struct {
		name, method, path string
		header             http.Header
		body               string
		status             int
		code, want         string
	}{
		{"all", "GET", list, ops, "", 200, "0", `"host":"host-2","this_host":false,"job_id":"j","backup_id":"b"`},
		{"of an instance", "GET", list + "?instance=phone-1", ops, "", 200, "0", `"silent_seconds":7,"took":1,"reason":"gone"`},
		{"of a bad id", "GET", list + "?instance=..x", ops, "", 400, "1000", "must be instance=ID"},
		{"by another key", "GET", list + "?tenant=t", ops, "", 400, "1000", "must be instance=ID"},
		{"by a tenant", "GET", list, tenant, "", 400, "1001", "may not make this call"},
		{"take over", "POST", take, ops, `{"reason":"it burnt down","force":true}`, 200, "0", `"claims":[{"instance_id":"phone-1"`},
		{"take over from a living host", "POST", take, ops, `{"reason":"it burnt down"}`, 400, "2005", "signs of life"},
		{"no force", "POST", take, ops, `{"reason":"it burnt down","force":false}`, 400, "2005", "signs of life"},
		{"without a reason", "POST", take, ops, `{"force":true}`, 400, "1000", "reason: missing"},
		{"with an empty reason", "POST", take, ops, `{"reason":""}`, 400, "1000", "reason: must be"},
		{"with a long reason", "POST", take, ops, `{"reason":"` + strings.Repeat("x", 1025) + `"}`, 400, "1000", "reason: must be"},
		{"with another force", "POST", take, ops, `{"reason":"r","force":1}`, 400, "1000", "force: must be"},
		{"with another field", "POST", take, ops, `{"reason":"r","yes":true}`, 400, "1000", `unknown field`},
		{"take over by a tenant", "POST", take, tenant, `{"reason":"r"}`, 400, "1001", "may not make this call"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t)
			code := tt.code
			if code != "0" {
				code = "KOOPHONE.API." + code
			}
			r := b.send(tt.method, tt.path, tt.header, strings.NewReader(tt.body))
			if r.status != tt.status || r.Code != code || !strings.Contains(r.raw, tt.want) {
				t.Errorf("%d %s, want %d %s %s", r.status, r.raw, tt.status, code, tt.want)
			}
			if calls := b.called(); code != "0" && strings.Contains(tt.want, "may not") && calls != "" {
				t.Errorf("the service was asked: %s", calls)
			}
		})
	}
}
