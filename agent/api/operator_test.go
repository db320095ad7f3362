package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// newSocket serves the operator handler on a unix socket.
func newSocket(t *testing.T) (*fake, *api.Client, string, func()) {
	t.Helper()
	f := newFake()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(documented(t, api.NewOperatorHandler(f, api.Options{})), nil, nil)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	stop := sync.OnceFunc(func() {
		_ = srv.Close()
		<-done
	})
	t.Cleanup(stop)
	return f, api.NewClient(path), path, stop
}

func TestClient(t *testing.T) {
	f, c, path, stop := newSocket(t)
	ctx := t.Context()
	info, err := c.Info(ctx)
	if err != nil || info.Version != "1.2.3" || info.HostID != "h1" || !info.Started.Equal(time.Unix(1000, 0)) {
		t.Errorf("info: %+v, %v", info, err)
	}
	if list, err := c.Instances(ctx); err != nil || len(list) != 1 || list[0].Volumes[0].Path != "/d" {
		t.Errorf("instances: %+v, %v", list, err)
	}
	if list, err := c.Jobs(ctx, api.JobFilter{InstanceID: "phone-1", Active: true}); err != nil || len(list) != 1 {
		t.Errorf("jobs: %+v, %v", list, err)
	}
	if list, err := c.Jobs(ctx, api.JobFilter{InstanceID: "many"}); err != nil || len(list) != 2500 || list[2499].JobID != "job-1" {
		t.Errorf("jobs of three pages: %d, %v", len(list), err)
	}
	if list, err := c.Jobs(ctx, api.JobFilter{InstanceID: "many", Limit: 1001}); err != nil || len(list) != 1001 {
		t.Errorf("jobs of a page and one: %d, %v", len(list), err)
	}
	if list, err := c.Jobs(ctx, api.JobFilter{TaskID: "task-t1"}); err != nil || len(list) != 1 {
		t.Errorf("jobs of a task: %+v, %v", list, err)
	}
	a, err := c.Backup(ctx, "r5", []string{"phone-1", "phone-9"})
	if err != nil || a.TaskID != "task-r5" || len(a.Jobs) != 2 {
		t.Errorf("backup: %+v, %v", a, err)
	}
	if a, err := c.Backup(ctx, "", []string{"phone-1"}); err != nil || len(a.TaskID) != len("task-")+16 {
		t.Errorf("backup without request id: %+v, %v", a, err)
	}
	for name, err := range map[string]error{
		"cancel": c.Cancel(ctx, "task-t1"), "release": c.Release(ctx, "phone-1"), "resume": c.Resume(ctx, "phone-1"), "accept a fork": c.AcceptFork(ctx, "phone-1", "b/1", true), "drain": c.Drain(ctx),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, want := range []string{"jobs  phone-1 active", "jobs task-t1", "cancel task-t1", "release phone-1", "resume phone-1", "accept-fork phone-1 b/1 true", "drain"} {
		if calls := f.called(); !strings.Contains(calls, want) {
			t.Errorf("no %q in %s", want, calls)
		}
	}

	if list, err := c.Kept(ctx); err != nil || len(list) != 1 || list[0].JobID != "j-1" || list[0].Volumes[0].From != "/srv/data" {
		t.Errorf("kept: %+v, %v", list, err)
	}
	if task, err := c.PutBack(ctx, "phone-1", "j-1"); err != nil || task.TaskID != "task-p" {
		t.Errorf("put back: %+v, %v", task, err)
	}
	if err := c.RemoveKept(ctx, "phone-1", ""); err != nil {
		t.Error(err)
	}
	if list, err := c.RefusedReports(ctx); err != nil || len(list) != 1 || list[0].Number != 7 || list[0].Reason != "410 Gone" {
		t.Errorf("refused reports: %+v, %v", list, err)
	}
	if err := errors.Join(c.RetryReport(ctx, 7), c.GiveUpReport(ctx, 7), c.DropReport(ctx, 7)); err != nil || !strings.Contains(f.called(), "retry 7; give up 7; drop 7") {
		t.Errorf("%v: %s", err, f.called())
	}

	var e *api.Error
	if err := c.DropReport(ctx, 8); !errors.As(err, &e) || !strings.Contains(e.Msg, `"8"`) {
		t.Errorf("unknown report: %v", err)
	}
	if err := c.RetryReport(ctx, 0); !errors.As(err, &e) || e.Code != api.CodeParameter {
		t.Errorf("report 0: %v", err)
	}
	if _, err := c.Jobs(ctx, api.JobFilter{TaskID: "no/such?task"}); !errors.As(err, &e) || e.Code != api.CodeParameter || !strings.Contains(e.Msg, `"no/such?task"`) {
		t.Errorf("unknown task: %v", err)
	}
	if _, err := c.Backup(ctx, "r", nil); !errors.As(err, &e) || e.Code != api.CodeParameter {
		t.Errorf("no instances: %v", err)
	}
	if err := c.Release(ctx, "../x"); !errors.As(err, &e) {
		t.Errorf("bad instance: %v", err)
	}
	f.fail = api.Busy(3*time.Second, "draining")
	if _, err := c.Backup(ctx, "r", []string{"a"}); !errors.As(err, &e) || e.RetryAfter != 3*time.Second || e.Status != 500 {
		t.Errorf("busy: %v", err)
	}
	stop()
	if _, err := c.Info(ctx); !errors.Is(err, api.ErrNoAgent) || !strings.Contains(err.Error(), path) {
		t.Errorf("no agent: %v", err)
	}
	if err := c.Watch(ctx, "task-t1", func(api.Event) error { return nil }); !errors.Is(err, api.ErrNoAgent) {
		t.Errorf("no agent: %v", err)
	}
}

func TestClientWatch(t *testing.T) {
	f, c, _, stop := newSocket(t)
	events := []api.Event{
		{Time: time.Unix(1, 5).UTC(), Type: api.EventStage, TaskID: "task-t1", JobID: "job-1", Stage: "freeze"},
		{Time: time.Unix(2, 0).UTC(), Type: api.EventProgress, TaskID: "task-t1", Progress: &model.Progress{BytesRead: 1 << 40}},
		{Time: time.Unix(3, 0).UTC(), Type: api.EventWarning, TaskID: "task-t1", Message: "line\nbreak \x1b[31m"},
		{Time: time.Unix(4, 0).UTC(), Type: api.EventEnded, TaskID: "task-t1", Status: api.StatusSuccess, BackupID: "b"},
	}
	play := func(end func(context.Context) error) {
		f.watch = func(ctx context.Context, send func(api.Event) error) error {
			for _, e := range events {
				if err := send(e); err != nil {
					return err
				}
			}
			return end(ctx)
		}
	}
	watch := func(ctx context.Context) (got []api.Event, err error) {
		err = c.Watch(ctx, "task-t1", func(e api.Event) error { got = append(got, e); return nil })
		return got, err
	}

	play(func(context.Context) error { return nil })
	got, err := watch(t.Context())
	if err != nil || len(got) != len(events) {
		t.Fatalf("%d events, %v", len(got), err)
	}
	for i := range got {
		if fmt.Sprint(got[i].Time, got[i].Type, got[i].Message, got[i].BackupID) != fmt.Sprint(events[i].Time, events[i].Type, events[i].Message, events[i].BackupID) {
			t.Errorf("event %d: %+v", i, got[i])
		}
	}

	// A task without events; a missing task; a task that breaks off, in our words and in others'.
	f.watch = func(context.Context, func(api.Event) error) error { return nil }
	if got, err := watch(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("no events: %v, %v", got, err)
	}
	var e *api.Error
	if err := c.Watch(t.Context(), "absent", nil); !errors.As(err, &e) || e.Code != api.CodeParameter {
		t.Errorf("unknown task: %v", err)
	}
	play(func(context.Context) error { return api.Refuse(api.CodeInternal, "shutting down") })
	if got, err := watch(t.Context()); !errors.As(err, &e) || e.Msg != "shutting down" || len(got) != 4 {
		t.Errorf("broken off: %d events, %v", len(got), err)
	}
	play(func(context.Context) error { return errors.New("inner detail") })
	if _, err := watch(t.Context()); !errors.As(err, &e) || !strings.HasPrefix(e.Msg, "internal service error, reference ") {
		t.Errorf("broken off inside: %v", err)
	}
	play(func(context.Context) error { panic("inner detail") })
	if _, err := watch(t.Context()); !errors.Is(err, api.ErrCut) {
		t.Errorf("panic in a stream: %v", err)
	}

	// The reader goes: Watch of the service ends, with the request's context.
	ended := make(chan struct{})
	play(func(ctx context.Context) error { defer close(ended); <-ctx.Done(); return ctx.Err() })
	stopHere := errors.New("seen enough")
	if err := c.Watch(t.Context(), "task-t1", func(api.Event) error { return stopHere }); !errors.Is(err, stopHere) {
		t.Errorf("reader's own end: %v", err)
	}
	<-ended
	ended = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, "task-t1", func(api.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	<-ended

	// The agent goes.
	started := make(chan struct{})
	f.watch = func(ctx context.Context, send func(api.Event) error) error {
		if err := send(events[0]); err != nil {
			return err
		}
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}
	go func() { <-started; stop() }()
	if _, err := watch(t.Context()); !errors.Is(err, api.ErrCut) {
		t.Errorf("agent gone: %v", err)
	}
}

// A stream outlives the server's time-outs, over both versions of HTTP.
func TestStreamOutlivesTimeouts(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, func(s *http.Server) {
				// they bound the handshake too, which a busy host slows down
				s.ReadTimeout, s.WriteTimeout = 2*time.Second, 2*time.Second
			})
			b.http.Transport.(*http.Transport).ForceAttemptHTTP2 = proto == "HTTP/2.0"
			b.watch = func(ctx context.Context, send func(api.Event) error) error {
				for i := range 3 {
					if i > 0 {
						select {
						case <-ctx.Done():
							return ctx.Err()
						case <-time.After(2500 * time.Millisecond):
						}
					}
					if err := send(api.Event{Type: api.EventStage, TaskID: "task-t1", Stage: fmt.Sprint(i)}); err != nil {
						return err
					}
				}
				return nil
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/agent/tasks/task-t1/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = hdr("x-request-id", "r", "x-auth-token", "t1", "accept", "text/event-stream")
			resp, err := b.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Proto != proto || resp.Header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("%s %v", resp.Proto, resp.Header)
			}
			lines := bufio.NewScanner(resp.Body)
			var got []string
			for lines.Scan() {
				got = append(got, lines.Text())
			}
			if err := lines.Err(); err != nil || len(got) != 9 || got[0] != "event: stage" || !strings.HasPrefix(got[1], `data: {"time":`) || got[2] != "" {
				t.Errorf("%v: %q", err, got)
			}
		})
	}
}

// The calls that a role may reach over the network.
func TestRolesOnAgentCalls(t *testing.T) {
	b := newBed(t)
	for _, tt := range []struct {
		method, path, token, code string
	}{
		{http.MethodGet, "/v1/agent/info", "t3-read", "0"},
		{http.MethodGet, "/v1/agent/instances", "t3-read", "0"},
		{http.MethodGet, "/v1/agent/jobs", "t1", "0"},
		{http.MethodGet, "/v1/agent/jobs?active=true&instance=x", "t1", "0"},
		{http.MethodGet, "/v1/agent/jobs?active=maybe", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?active=true&active=true", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?since=1", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?limit=1000&before=7", "t1", "0"},
		{http.MethodGet, "/v1/agent/jobs?limit=1001", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?limit=0", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?before=0", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/jobs?before=x", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/tasks/task-t1", "t1", "0"},
		{http.MethodGet, "/v1/agent/tasks/task-t2", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/tasks/task-t2/events", "t1", api.CodeParameter},
		{http.MethodGet, "/v1/agent/info", "nothing", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/info", "stolen", api.CodeNoTenant},
		{http.MethodPost, "/v1/agent/instances/phone-1/release", "plane", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/resume", "t1", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/release", "t3-read", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/instances/-x/release", "plane", api.CodeParameter},
		{http.MethodPost, "/v1/agent/tasks/task-t1/cancel", "t1", "0"},
		{http.MethodPost, "/v1/agent/tasks/task-t2/cancel", "t1", api.CodeParameter},
		{http.MethodPost, "/v1/agent/drain", "plane", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/drain", "ops", "0"},
		{http.MethodPost, "/v1/agent/backup", "plane", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/throttle", "ops", "0"},
		{http.MethodGet, "/v1/agent/throttle", "plane", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/throttle", "t1", api.CodeNoPermission},
		{http.MethodPut, "/v1/agent/throttle", "plane", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/reports", "plane", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/reports", "ops", "0"},
		{http.MethodPost, "/v1/agent/reports/7/drop", "t1", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/reports/7/retry", "plane", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/reports/7/retry", "ops", "0"},
		{http.MethodGet, "/v1/agent/kept", "plane", api.CodeNoPermission},
		{http.MethodGet, "/v1/agent/kept", "ops", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/put-back", "plane", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/put-back", "ops", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/put-back?job=j-1", "ops", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/put-back?job=../1", "ops", api.CodeParameter},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/put-back?force=1", "ops", api.CodeParameter},
		{http.MethodPost, "/v1/agent/instances/-x/kept/remove", "ops", api.CodeParameter},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/remove?job=j-1", "ops", "0"},
		{http.MethodPost, "/v1/agent/instances/phone-1/kept/remove", "t1", api.CodeNoPermission},
	} {
		r := b.send(tt.method, tt.path, hdr("x-request-id", "r", "x-auth-token", tt.token), nil)
		if r.Code != tt.code {
			t.Errorf("%s %s by %s: %s, want %s", tt.method, tt.path, tt.token, r.raw, tt.code)
		}
	}
	if r := b.send(http.MethodGet, "/v1/agent/instances", hdr("x-request-id", "r", "x-auth-token", "t3-read"), nil); string(r.Data) != `{"instances":[]}` {
		t.Errorf("an empty list: %s", r.raw)
	}
	for body, code := range map[string]string{"": "0", " {} ": "0", `{"a":1}`: api.CodeParameter, "x": api.CodeParameter} {
		if r := b.send(http.MethodPost, "/v1/agent/drain", hdr("x-request-id", "r", "x-auth-token", "ops"), strings.NewReader(body)); r.Code != code {
			t.Errorf("body %q: %s", body, r.raw)
		}
	}
	// The contract's calls need a token; the socket has none of them.
	f := newFake()
	srv := api.NewOperatorHandler(f, api.Options{})
	w := &discard{h: http.Header{}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/instances/backup", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if srv.ServeHTTP(w, req); w.status != 404 {
		t.Errorf("contract on the socket: %d", w.status)
	}
}

type discard struct {
	h      http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

func TestCaller(t *testing.T) {
	for _, tt := range []struct {
		c             model.Caller
		own, all, cmd bool
	}{
		{model.Caller{Tenant: "t", Role: model.RoleTenant}, true, false, true},
		{model.Caller{Role: model.RoleTenant}, false, false, true},
		{model.Caller{Tenant: "t", Role: model.RoleControlPlane}, true, false, true},
		{model.Caller{Role: model.RoleControlPlane}, true, true, true},
		{model.Caller{Role: model.RoleOperator}, true, true, true},
		{model.Caller{Role: model.RoleReadOnly}, true, true, false},
		{model.Caller{}, false, false, false},
		{model.Caller{Tenant: "u", Role: model.RoleReadOnly}, false, false, false},
	} {
		if tt.c.Sees("t") != tt.own || tt.c.SeesAll() != tt.all || tt.c.Commands() != tt.cmd || tt.c.Sees("") && !tt.all {
			t.Errorf("%+v: sees %v, all %v, commands %v", tt.c, tt.c.Sees("t"), tt.c.SeesAll(), tt.c.Commands())
		}
	}
}
