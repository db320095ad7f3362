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

func (f *fake) Prepare(ctx context.Context, c model.Caller, requestID string, digest [32]byte, ids []string) (api.PrepareAnswer, error) {
	a, err := f.Backup(ctx, c, requestID, digest, ids, time.Time{})
	if err != nil {
		return api.PrepareAnswer{}, err
	}
	p := api.PrepareAnswer{TaskAnswer: a}
	for i, id := range ids {
		p.StatusList = append(p.StatusList, api.InstanceStatus{InstanceID: id, Status: i % 2})
	}
	return p, nil
}

func (f *fake) PrepareProgress(_ context.Context, c model.Caller, id string) (api.PrepareProgress, error) {
	if err := f.note("prepare-progress", id); err != nil {
		return api.PrepareProgress{}, err
	}
	if !c.Sees(f.tenants[id]) {
		return api.PrepareProgress{}, api.RefuseInstances(api.CodeNoPermission, []string{id}, "not there, or not yours")
	}
	return api.PrepareProgress{Status: api.ProgressQueued, WaitingCount: 3}, nil
}

func (f *fake) Status(_ context.Context, c model.Caller, ids []string) ([]api.InstanceStatus, error) {
	if err := f.note("status", strings.Join(ids, ",")); err != nil {
		return nil, err
	}
	var list []api.InstanceStatus
	for i, id := range ids {
		if !c.Sees(f.tenants[id]) {
			return nil, api.RefuseInstances(api.CodeNoPermission, []string{id}, "not there, or not yours")
		}
		list = append(list, api.InstanceStatus{InstanceID: id, Status: i})
	}
	return list, nil
}

// Every row of the contract for the calls that bring instances back, through
// real HTTP. TestBackupContract has the rows that they share with backup.
func TestPrepareContract(t *testing.T) {
	good := hdr("x-request-id", "r1", "x-auth-token", "t1")
	const prepare, progress, query = "/v1/instances/prepare", "/v1/instances/prepare-progress", "/v1/instances/batch-query-status"
	for _, tt := range []struct {
		name   string
		path   string
		header http.Header
		body   string
		status int
		code   string // after KOOPHONE.API.
		want   string // part of the answer
	}{
		{
			"prepare", prepare, good, `{"user_id":"u1","instance_ids":["phone-1","phone-2"]}`, 200, "0",
			`"error_msg":"OK","data":{"task_id":"task-r1","cmd_jobs":[{"instance_id":"phone-1","job_id":"job-phone-1"},{"instance_id":"phone-2","job_id":"job-phone-2"}]},` +
				`"status_list":[{"instance_id":"phone-1","status":0},{"instance_id":"phone-2","status":1}]}`,
		},
		{"prepare one", prepare, good, `{"instance_id":"phone-1"}`, 200, "0", `"status_list":[{"instance_id":"phone-1","status":0}]`},
		{"prepare without ids", prepare, good, `{"user_id":"u1"}`, 400, "1000", "instance_ids: missing"},
		{"prepare for another user", prepare, good, `{"user_id":"u2","instance_ids":["phone-1"]}`, 400, "1000", "is not the user of the token"},
		{"prepare another tenant's", prepare, good, `{"instance_ids":["phone-9"]}`, 400, "1001", "not there, or not yours"},
		{"prepare by a reader", prepare, hdr("x-request-id", "r1", "x-auth-token", "t3-read"), `{"instance_ids":["phone-1"]}`, 400, "1001", "may not make this call"},
		{"prepare without a request id", prepare, hdr("x-auth-token", "t1"), `{"instance_ids":["phone-1"]}`, 400, "0002", "x-request-id: missing"},
		{"prepare without a token", prepare, hdr("x-request-id", "r1"), `{"instance_ids":["phone-1"]}`, 400, "0005", "x-auth-token: missing"},
		{"prepare 101", prepare, good, `{"instance_ids":` + ids(101) + `}`, 400, "1000", "must hold 1 to 100 ids, got 101"},

		{"progress", progress, good, `{"user_id":"u1","instance_id":"phone-1"}`, 200, "0", `"data":{"status":1,"waitingCount":3}}`},
		{"progress of none", progress, good, `{}`, 400, "1000", "instance_id: missing"},
		{"progress of a list", progress, good, `{"instance_ids":["phone-1"]}`, 400, "1000", `\"instance_ids\": unknown field`},
		{"progress of a bad id", progress, good, `{"instance_id":"../x"}`, 400, "1000", "instance_id: must be 1 to 32"},
		{"progress, no JSON", progress, good, `x`, 400, "1000", "body: is not JSON"},
		{"progress of another tenant's", progress, good, `{"instance_id":"phone-9"}`, 400, "1001", "not there, or not yours"},
		{"progress for another user", progress, good, `{"user_id":"u2","instance_id":"phone-1"}`, 400, "1000", "is not the user of the token"},

		{
			"status", query, good, `{"instance_ids":["phone-2","phone-1"]}`, 200, "0",
			`{"error_code":"0","error_msg":"OK","status_results":[{"instance_id":"phone-2","status":0},{"instance_id":"phone-1","status":1}]}`,
		},
		{"status by a reader", query, hdr("x-request-id", "r1", "x-auth-token", "plane"), `{"instance_ids":["phone-9"]}`, 200, "0", `"status_results"`},
		{"status of another tenant's", query, good, `{"instance_ids":["phone-1","phone-9"]}`, 400, "1001", "not there, or not yours"},
		{"status of none", query, good, `{"instance_ids":[]}`, 400, "1000", "must hold 1 to 100 ids, got 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t)
			r := b.send(http.MethodPost, tt.path, tt.header, strings.NewReader(tt.body))
			code := tt.code
			if code != "0" {
				code = "KOOPHONE.API." + code
			}
			if r.status != tt.status || r.Code != code || !strings.Contains(r.raw, tt.want) {
				t.Errorf("got %d %s\nwant %d %s %s", r.status, r.raw, tt.status, code, tt.want)
			}
			if e := <-b.seen; e.Route != tt.path || e.Code != r.Code {
				t.Errorf("observed %+v", e)
			}
		})
	}
}

// Invariant same-command-once: a request id that was used for a
// backup is not taken for a prepare of the same instances.
func TestPrepareIsNoBackup(t *testing.T) {
	b := newBed(t)
	h := hdr("x-request-id", "r", "x-auth-token", "t1")
	const body = `{"instance_ids":["phone-1"]}`
	for _, path := range []string{"/v1/instances/backup", "/v1/instances/prepare"} {
		want := map[string]string{"/v1/instances/backup": "0", "/v1/instances/prepare": api.CodeParameter}[path]
		if r := b.send(http.MethodPost, path, h, strings.NewReader(body)); r.Code != want {
			t.Errorf("%s: %s", path, r.raw)
		}
	}
}
