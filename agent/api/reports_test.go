package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// Events go out as server-sent events that any reader of them takes.
func TestReports(t *testing.T) {
	f, c, _, _ := newSocket(t)
	var asked *uint64
	play := func(err error, events ...api.ReportEvent) {
		f.reports = func(_ context.Context, _ model.Caller, after *uint64, send func(api.ReportEvent) error) error {
			asked = after
			for _, e := range events {
				if err := send(e); err != nil {
					return err
				}
			}
			return err
		}
	}
	one := api.ReportEvent{
		Seq: 7, Type: "holdfast.backup.failed", ID: "j-7", Time: time.Unix(9, 0).UTC(), InstanceID: "phone-1", TaskID: "t", JobID: "j",
		Data: json.RawMessage(`{"reason":"a\nb \u001b[31m"}`),
	}
	play(nil, api.ReportEvent{Seq: 3, Type: api.ReportGap}, api.ReportEvent{}, one)
	var got []api.ReportEvent
	five := uint64(5)
	err := c.Reports(t.Context(), &five, func(e api.ReportEvent) error { got = append(got, e); return nil })
	if !errors.Is(err, api.ErrCut) || len(got) != 2 || got[0].Type != api.ReportGap || got[1].ID != "j-7" || asked == nil || *asked != 5 {
		t.Errorf("%+v, asked for %v: %v", got, asked, err)
	}
	if err := c.Reports(t.Context(), nil, func(api.ReportEvent) error { return io.EOF }); !errors.Is(err, io.EOF) || asked != nil {
		t.Errorf("asked for %v: %v", asked, err)
	}

	h := documented(t, api.NewHandler(f, tokens, api.Options{}))
	ask := func(last ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/v1/agent/events", nil)
		r.Header = hdr("x-request-id", "r", "x-auth-token", "t1")
		for _, l := range last {
			r.Header.Add("Last-Event-ID", l)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	want := "id: 3\nevent: gap\ndata: {\"seq\":3,\"type\":\"gap\"}\n\n:\n\nid: 7\nevent: holdfast.backup.failed\ndata: "
	w := ask()
	if w.Header().Get("Content-Type") != "text/event-stream" || !strings.HasPrefix(w.Body.String(), want) || strings.Count(w.Body.String(), "\n") != 10 ||
		strings.Contains(w.Body.String(), "\x1b") {
		t.Errorf("%v %q", w.Header(), w.Body)
	}
	for _, bad := range [][]string{{"x"}, {"-1"}, {"1", "2"}, {""}, {"99999999999999999999"}} {
		if w := ask(bad...); w.Code != 400 || !strings.Contains(w.Body.String(), "last-event-id: must be one number") {
			t.Errorf("%q: %d %s", bad, w.Code, w.Body)
		}
	}
	// Before the first event a failure is an answer; after it, a stream that is cut off.
	play(errors.New("inner detail"))
	if w := ask(); w.Code != 500 || strings.Contains(w.Body.String(), "inner") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	play(errors.New("inner detail"), one)
	if err := c.Reports(t.Context(), nil, func(api.ReportEvent) error { return nil }); !errors.Is(err, api.ErrCut) {
		t.Errorf("cut off: %v", err)
	}
}

// TestClientCoversTheSocket calls everything that the socket serves
// by the client, but the document.
func TestClientCoversTheSocket(t *testing.T) {
	var reached []string
	f := newFake()
	srv := httptest.NewUnstartedServer(api.NewOperatorHandler(f, api.Options{Observe: func(e api.Exchange) { reached = append(reached, e.Method+" "+e.Route) }}))
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv.Listener = l
	srv.Start()
	c, ctx := api.NewClient(path), t.Context()
	_, _ = c.Info(ctx)
	_, _ = c.Instances(ctx)
	_, _ = c.Jobs(ctx, api.JobFilter{})
	_, _ = c.Jobs(ctx, api.JobFilter{TaskID: "task-t1"})
	_, _ = c.Backup(ctx, "", []string{"phone-1"})
	_, _ = c.Throttle(ctx)
	_, _ = c.SetThrottle(ctx, api.ThrottleSetting{})
	_, _ = c.Prepare(ctx, "", []string{"phone-1"}, "b-1")
	_, _ = c.Loss(ctx, "phone-1")
	_, _ = c.AcceptLoss(ctx, "phone-1", api.LossConfirmed{Lost: []string{"b-2"}, BackupID: "b-1"})
	_, _ = c.Abandon(ctx, "phone-1", "j-1")
	_, _ = c.Claims(ctx, "phone-1")
	_, _ = c.TakeOverClaim(ctx, "phone-1", "gone", true)
	_, _ = c.Prune(ctx, "", "t1", api.PruneCommand{})
	_, _ = c.Vaults(ctx, "")
	_, _ = c.Vaults(ctx, "t1")
	_ = c.Cancel(ctx, "task-t1")
	_ = c.Release(ctx, "phone-1")
	_ = c.Resume(ctx, "phone-1")
	_ = c.AcceptFork(ctx, "phone-1", "", false)
	_ = c.Drain(ctx)
	_, _ = c.Kept(ctx)
	_, _ = c.PutBack(ctx, "phone-1", "")
	_ = c.RemoveKept(ctx, "phone-1", "")
	_, _ = c.RefusedReports(ctx)
	_ = c.RetryReport(ctx, 7)
	_ = c.GiveUpReport(ctx, 7)
	_ = c.DropReport(ctx, 7)
	_ = c.Watch(ctx, "task-t1", func(api.Event) error { return nil })
	_ = c.Reports(ctx, nil, func(api.ReportEvent) error { return nil })
	srv.Close() // waits for the handlers
	served := slices.DeleteFunc(api.Routes(), func(r string) bool {
		return !strings.Contains(r, "/v1/agent/") || strings.HasSuffix(r, "/openapi.json")
	})
	slices.Sort(served)
	slices.Sort(reached)
	if !slices.Equal(served, reached) {
		t.Errorf("the socket serves\n%s\nthe client reached\n%s", strings.Join(served, "\n"), strings.Join(reached, "\n"))
	}
}
