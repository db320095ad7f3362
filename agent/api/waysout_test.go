package api_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

func (f *fake) PrepareFrom(ctx context.Context, c model.Caller, requestID string, digest [32]byte, ids []string, backup string) (api.PrepareAnswer, error) {
	if err := f.note("prepare-from", backup); err != nil {
		return api.PrepareAnswer{}, err
	}
	return f.Prepare(ctx, c, requestID, digest, ids)
}

func (f *fake) Loss(_ context.Context, c model.Caller, id string) (api.Loss, error) {
	if err := f.note("loss", id); err != nil {
		return api.Loss{}, err
	}
	if _, ok := f.tenants[id]; !ok || !c.SeesAll() {
		return api.Loss{}, api.RefuseInstances(api.CodeNoInstance, []string{id}, "not on this host")
	}
	return api.Loss{InstanceID: id, Lost: []api.KnownBackup{{BackupID: "b-2", Sequence: 2}}, Newest: &api.KnownBackup{BackupID: "b-1", Sequence: 1}}, nil
}

func (f *fake) AcceptLoss(ctx context.Context, c model.Caller, id string, confirmed api.LossConfirmed) (api.Loss, error) {
	l, err := f.Loss(ctx, c, id)
	if err == nil && slices.Contains(confirmed.Lost, "b-3") {
		return api.Loss{}, api.Refuse(api.CodeParameter, "the loss is another one")
	}
	l.Accepted = true
	return l, err
}

func (f *fake) Abandon(_ context.Context, _ model.Caller, id, job string) (api.Abandoned, error) {
	if job == "j-other" {
		return api.Abandoned{}, api.Refuse(api.CodeParameter, "job_id: not the job of %s", api.Quote(id))
	}
	return api.Abandoned{JobID: job, Ended: true, Message: "left as it is"}, f.note("abandon", id, job)
}

// TestWaysOut holds every row of operators' ways out through real
// HTTP: the allowed bodies, and that nobody but an operator gets in.
func TestWaysOut(t *testing.T) {
	ops, tenant := hdr("x-request-id", "r1", "x-auth-token", "ops"), hdr("x-request-id", "r1", "x-auth-token", "t1")
	const at = "/v1/agent/instances/phone-1/"
	for _, tt := range []struct {
		name, method, path string
		header             http.Header
		body               string
		status             int
		code, want         string
	}{
		{"prepare", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1","phone-9"]}`, 200, "0", `"status_list":[{"instance_id":"phone-1"`},
		{"prepare of a backup", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1"],"backup_id":"20261130T120000Z-a"}`, 200, "0", `"task_id"`},
		{"prepare of a backup, one id", "POST", "/v1/agent/prepare", ops, `{"backup_id":"b-1","instance_id":"phone-1"}`, 200, "0", `"task_id"`},
		{"prepare of a backup for two", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1","phone-2"],"backup_id":"b-1"}`, 400, "1000", "backup_id: is of one instance, and the command names 2"},
		{"prepare of no id", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1"],"backup_id":""}`, 400, "1000", "backup_id: must be an id"},
		{"prepare of a path", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1"],"backup_id":"../x"}`, 400, "1000", "backup_id: must be an id"},
		{"prepare of null", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1"],"backup_id":null}`, 400, "1000", "backup_id: must be an id"},
		{"prepare with another field", "POST", "/v1/agent/prepare", ops, `{"instance_ids":["phone-1"],"backup_id":"b-1","force":true}`, 400, "1000", `\"force\": unknown field`},
		{"prepare by a tenant", "POST", "/v1/agent/prepare", tenant, `{"instance_ids":["phone-1"]}`, 400, "1001", "may not make this call"},
		{"the contract's prepare takes no backup", "POST", "/v1/instances/prepare", tenant, `{"instance_ids":["phone-1"],"backup_id":"b-1"}`, 400, "1000", `\"backup_id\": unknown field`},
		{"loss", "GET", at + "loss", ops, "", 200, "0", `"lost":[{"backup_id":"b-2","sequence":2}],"newest":{"backup_id":"b-1","sequence":1},"accepted":false`},
		{"loss of nobody", "GET", "/v1/agent/instances/phone-x/loss", ops, "", 400, "4001", "not on this host"},
		{"loss by a tenant", "GET", at + "loss", tenant, "", 400, "1001", "may not make this call"},
		{"accept", "POST", at + "accept-loss", ops, `{"lost":["b-2"],"backup_id":"b-1"}`, 200, "0", `"accepted":true`},
		{"accept another", "POST", at + "accept-loss", ops, `{"lost":["b-3"],"backup_id":"b-1"}`, 400, "1000", "the loss is another one"},
		{"accept with no backup left", "POST", at + "accept-loss", ops, `{"lost":["b-2"],"backup_id":""}`, 200, "0", `"accepted":true`},
		{"accept nothing", "POST", at + "accept-loss", ops, `{"backup_id":"b-1"}`, 400, "1000", "lost: missing"},
		{"accept an empty list", "POST", at + "accept-loss", ops, `{"lost":[]}`, 400, "1000", "lost: must be an array"},
		{"accept a number", "POST", at + "accept-loss", ops, `{"lost":[7]}`, 400, "1000", "lost: must be an id"},
		{"accept with another field", "POST", at + "accept-loss", ops, `{"lost":["b-2"],"yes":true}`, 400, "1000", `\"yes\": unknown field`},
		{"accept by a tenant", "POST", at + "accept-loss", tenant, `{"lost":["b-2"]}`, 400, "1001", "may not make this call"},
		{"abandon", "POST", at + "abandon", ops, `{"job_id":"j-1"}`, 200, "0", `"job_id":"j-1","ended":true,"message":"left as it is"`},
		{"abandon another job", "POST", at + "abandon", ops, `{"job_id":"j-other"}`, 400, "1000", "not the job of"},
		{"abandon nothing", "POST", at + "abandon", ops, `{}`, 400, "1000", "job_id: missing"},
		{"abandon with another field", "POST", at + "abandon", ops, `{"job_id":"j-1","yes":true}`, 400, "1000", `\"yes\": unknown field`},
		{"abandon by a tenant", "POST", at + "abandon", tenant, `{"job_id":"j-1"}`, 400, "1001", "may not make this call"},
		{"abandon of a bad id", "POST", "/v1/agent/instances/..x/abandon", ops, `{"job_id":"j-1"}`, 400, "1000", "instance_id: must be"},
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

// TestPrepareOfABackupIsAnotherCommand: a request id that was
// used for the newest backup is not taken for a chosen one.
func TestPrepareOfABackupIsAnotherCommand(t *testing.T) {
	b := newBed(t)
	ops := hdr("x-request-id", "r1", "x-auth-token", "ops")
	send := func(body string) reply {
		return b.send(http.MethodPost, "/v1/agent/prepare", ops, strings.NewReader(body))
	}
	if r := send(`{"instance_ids":["phone-1"],"backup_id":"b-1"}`); r.Code != "0" {
		t.Fatal(r.raw)
	}
	if r := send(`{"backup_id":"b-1","instance_ids":["phone-1"]}`); r.Code != "0" {
		t.Errorf("the same command: %s", r.raw)
	}
	for _, other := range []string{`{"instance_ids":["phone-1"]}`, `{"instance_ids":["phone-1"],"backup_id":"b-2"}`} {
		if r := send(other); r.Code != api.CodeParameter {
			t.Errorf("%s: %s", other, r.raw)
		}
	}
}
