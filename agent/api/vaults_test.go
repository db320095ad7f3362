package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

func (f *fake) Prune(_ context.Context, c model.Caller, requestID string, digest [32]byte, tenant string, p api.PruneCommand) (api.PruneAnswer, error) {
	if err := f.note("prune", tenant, fmt.Sprint(p)); err != nil {
		return api.PruneAnswer{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := c.Tenant + "\x00prune" + requestID
	if before, known := f.commands[key]; known && before != digest {
		return api.PruneAnswer{}, api.Refuse(api.CodeParameter, "x-request-id: was used before with another body")
	}
	f.commands[key] = digest
	return api.PruneAnswer{TaskID: "prune-1"}, nil
}

func (f *fake) Vaults(_ context.Context, _ model.Caller, tenant string) ([]api.VaultInfo, error) {
	at := time.Unix(1000, 0).UTC()
	run := api.PruneRun{TaskID: "prune-1", Tenant: "t1", By: "the control plane", State: "at_work", Status: api.StatusRunning, Step: "deletes packs", Accepted: at, GarbageBytes: 7, Waits: []string{"host-2"}}
	return []api.VaultInfo{{Tenant: "t1", Run: "elected", LastPrune: at, LastHost: "host-2", Runs: []api.PruneRun{run}}, {Tenant: "t2", Run: "command"}}, f.note("vaults", tenant)
}

// TestVaults holds the calls about vaults through real HTTP: the allowed
// bodies, repeated commands, and that a reader commands nothing.
func TestVaults(t *testing.T) {
	ops, read := hdr("x-request-id", "r1", "x-auth-token", "ops"), hdr("x-request-id", "r1", "x-auth-token", "t3-read")
	const list, prune = "/v1/agent/vaults", "/v1/agent/vaults/t1/prune"
	for _, tt := range []struct {
		name, method, path string
		header             http.Header
		body               string
		status             int
		code, want         string
	}{
		{"all", "GET", list, ops, "", 200, "0", `"vaults":[{"tenant":"t1","run":"elected","last_prune":"1970-01-01T00:16:40Z","last_host":"host-2","runs":[{"task_id":"prune-1"`},
		{"without runs", "GET", list, ops, "", 200, "0", `{"tenant":"t2","run":"command","runs":[]}`},
		{"of a tenant, by a reader", "GET", list + "/t1", read, "", 200, "0", `"waits_for":["host-2"]`},
		{"of a bad tenant", "GET", list + "/.t", ops, "", 400, "1000", "tenant: must be 1 to 128"},
		{"prune", "POST", prune, ops, "", 200, "0", `"data":{"task_id":"prune-1"}`},
		{"prune with settings", "POST", prune, ops, `{"dry_run":true,"keep_all":false,"accept_share":true}`, 200, "0", `"task_id":"prune-1"`},
		{"another setting", "POST", prune, ops, `{"grace":"0s"}`, 400, "1000", "unknown field"},
		{"no truth value", "POST", prune, ops, `{"dry_run":"yes"}`, 400, "1000", "dry_run: must be true or false"},
		{"no object", "POST", prune, ops, `[]`, 400, "1000", "body: must be a JSON object"},
		{"by a reader", "POST", prune, read, "", 400, "1001", "may not make this call"},
		{"of a bad tenant", "POST", "/v1/agent/vaults/a%20b/prune", ops, "", 400, "1000", "tenant: must be 1 to 128"},
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
		})
	}
	b := newBed(t)
	if r := b.send("POST", prune, ops, strings.NewReader(`{}`)); r.Code != "0" {
		t.Fatalf("%s", r.raw)
	}
	if r := b.send("POST", prune, ops, strings.NewReader("")); r.Code != "0" {
		t.Errorf("the same command, written in another way: %s", r.raw)
	}
	if r := b.send("POST", prune, ops, strings.NewReader(`{"dry_run":true}`)); r.Code != api.CodeParameter {
		t.Errorf("the same request id with another command: %s", r.raw)
	}
	if r := b.send("POST", "/v1/agent/vaults/t2/prune", ops, strings.NewReader(`{}`)); r.Code != api.CodeParameter {
		t.Errorf("the same request id with another tenant: %s", r.raw)
	}
}
