package api_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// Without a token the caller is the process that the connection
// names, and a process that was shut out stays out with any token.
func TestPeer(t *testing.T) {
	var seen api.Exchange
	var peer model.Caller
	var found bool
	var fault error
	h := api.NewHandler(newFake(), tokens, api.Options{
		Observe: func(e api.Exchange) { seen = e },
		Peer:    func(*http.Request) (model.Caller, bool, error) { return peer, found, fault },
	})
	call := func(token string) string {
		r := httptest.NewRequest(http.MethodPost, "/v1/instances/backup", strings.NewReader(`{"instance_id":"phone-9"}`))
		r.Header = hdr("x-request-id", "r")
		if token != "" {
			r.Header.Set("X-Auth-Token", token)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		return seen.Code
	}
	by := model.Caller{Role: model.RoleControlPlane, Via: "certificate plane"}
	for _, tt := range []struct {
		name  string
		peer  model.Caller
		found bool
		err   error
		token string
		code  string
		via   string
	}{
		{"certificate", by, true, nil, "", api.CodeOK, "certificate plane"},
		{"certificate and a tenant's token", by, true, nil, "t1", api.CodeNoPermission, "token"},
		{"certificate and an empty token", by, true, nil, " ", api.CodeNoHeader, ""},
		{"certificate of a reader", model.Caller{Role: model.RoleReadOnly, Via: "certificate r"}, true, nil, "", api.CodeNoPermission, "certificate r"},
		{"nobody's certificate", model.Caller{}, false, nil, "", api.CodeNoHeader, ""},
		{"nobody's certificate, a token", model.Caller{}, false, nil, "ops", api.CodeOK, "token"},
		{"revoked", model.Caller{}, false, fmt.Errorf("revoked: %w", model.ErrUnknownToken), "ops", api.CodeNoTenant, ""},
		{"revocation unknown", model.Caller{}, false, model.ErrAuthUnavailable, "ops", api.CodeAuthAway, ""},
	} {
		peer, found, fault = tt.peer, tt.found, tt.err
		if code := call(tt.token); code != tt.code || seen.Caller.Via != tt.via {
			t.Errorf("%s: %s by %q, want %s by %q", tt.name, code, seen.Caller.Via, tt.code, tt.via)
		}
	}
}

// The kernel says which process called at the socket.
func TestPeerOfTheSocket(t *testing.T) {
	seen := make(chan api.Exchange, 1)
	srv := api.NewServer(api.NewOperatorHandler(newFake(), api.Options{Observe: func(e api.Exchange) { seen <- e }}), nil, nil)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	if err := api.NewClient(path).Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := <-seen; e.Caller.Via != fmt.Sprintf("uid %d pid %d", os.Getuid(), os.Getpid()) || e.Caller.Role != model.RoleOperator {
		t.Errorf("%+v", e.Caller)
	}
}
