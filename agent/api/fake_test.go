package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// fake is a Service that keeps the calls in memory, by the rules of the contract.
type fake struct {
	deadline time.Time // of the last backup
	mu       sync.Mutex
	calls    []string
	commands map[string][32]byte // tenant and request id -> digest
	tenants  map[string]string   // instance -> tenant
	fail     error               // what every method returns, if set
	panics   any
	watch    func(ctx context.Context, send func(api.Event) error) error
	reports  func(ctx context.Context, c model.Caller, after *uint64, send func(api.ReportEvent) error) error
	msg      string // execute_msg of the task
	set      api.ThrottleSetting
}

func newFake() *fake {
	return &fake{
		commands: map[string][32]byte{},
		tenants:  map[string]string{"phone-1": "t1", "phone-2": "t1", "phone-9": "t2"},
	}
}

func (f *fake) note(what ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.Join(what, " "))
	if f.panics != nil {
		panic(f.panics)
	}
	return f.fail
}

func (f *fake) Backup(_ context.Context, c model.Caller, requestID string, digest [32]byte, ids []string, deadline time.Time) (api.TaskAnswer, error) {
	f.deadline = deadline
	if err := f.note("backup", strings.Join(ids, ",")); err != nil {
		return api.TaskAnswer{}, err
	}
	var hidden, absent []string
	for _, id := range ids {
		switch tenant, ok := f.tenants[id]; {
		case ok && c.Sees(tenant):
		case c.SeesAll():
			absent = append(absent, id)
		default:
			hidden = append(hidden, id)
		}
	}
	if len(hidden) > 0 {
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeNoPermission, hidden, "not there, or not yours")
	}
	if len(absent) > 0 {
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeNoInstance, absent, "not on this host")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := c.Tenant + " " + requestID
	if first, ok := f.commands[key]; ok && first != digest {
		return api.TaskAnswer{}, api.Refuse(api.CodeParameter, "x-request-id: %s was used for another command", api.Quote(requestID))
	}
	f.commands[key] = digest
	a := api.TaskAnswer{TaskID: "task-" + requestID}
	for _, id := range ids {
		a.Jobs = append(a.Jobs, model.JobRef{Instance: id, Job: "job-" + id})
	}
	return a, nil
}

// Tasks: "task-t1" is tenant t1's, "task-t2" is t2's.
func (f *fake) sees(c model.Caller, taskID string) error {
	tenant, ok := strings.CutPrefix(taskID, "task-")
	if !ok || len(tenant) != 2 || !c.Sees(tenant) {
		return api.UnknownTask(taskID)
	}
	return nil
}

func (f *fake) Task(_ context.Context, c model.Caller, id string) (api.TaskStatus, error) {
	if err := f.note("task", id); err != nil {
		return api.TaskStatus{}, err
	}
	if err := f.sees(c, id); err != nil {
		return api.TaskStatus{}, err
	}
	return api.TaskStatus{Jobs: []api.JobStatus{
		{JobID: "job-1", Status: api.StatusRunning, ErrorCode: "0", ErrorMsg: "OK", ExecuteMsg: f.msg},
		{JobID: "job-2", Status: api.StatusFailed, ErrorCode: api.CodeInternal, ErrorMsg: "store unavailable"},
	}}, nil
}

func (f *fake) Watch(ctx context.Context, c model.Caller, id string, send func(api.Event) error) error {
	if err := f.sees(c, id); err != nil {
		return err
	}
	if f.watch != nil {
		return f.watch(ctx, send)
	}
	return f.note("watch", id)
}

func (f *fake) Reports(ctx context.Context, c model.Caller, after *uint64, send func(api.ReportEvent) error) error {
	if f.reports != nil {
		return f.reports(ctx, c, after, send)
	}
	return f.note("reports")
}

func (f *fake) Info(context.Context, model.Caller) (api.Info, error) {
	return api.Info{Version: "1.2.3", HostID: "h1", Started: time.Unix(1000, 0).UTC(), Instances: 3}, f.note("info")
}

func (f *fake) Instances(_ context.Context, c model.Caller) ([]api.InstanceInfo, error) {
	if err := f.note("instances", c.Tenant); err != nil {
		return nil, err
	}
	if c.Tenant == "t3" {
		return nil, nil
	}
	return []api.InstanceInfo{{ID: "phone-1", Tenant: "t1", Volumes: []api.Volume{{Name: "data", Path: "/d"}}}}, nil
}

func (f *fake) Jobs(_ context.Context, c model.Caller, flt api.JobFilter) ([]api.JobInfo, uint64, error) {
	active := ""
	if flt.Active {
		active = "active"
	}
	if err := f.note("jobs", flt.TaskID, flt.InstanceID, active); err != nil {
		return nil, 0, err
	}
	if flt.TaskID != "" && f.sees(c, flt.TaskID) != nil {
		return nil, 0, nil
	}
	if flt.InstanceID == "many" { // 2,500 jobs
		var page []api.JobInfo
		n := uint64(2500)
		if flt.Before > 0 {
			n = flt.Before - 1
		}
		for ; n > 0 && len(page) < flt.Limit; n-- {
			page = append(page, api.JobInfo{JobID: "job-" + strconv.FormatUint(n, 10), InstanceID: "many", Status: api.StatusSuccess})
		}
		if n > 0 {
			return page, n + 1, nil
		}
		return page, 0, nil
	}
	return []api.JobInfo{{JobID: "job-1", TaskID: "task-t1", InstanceID: "phone-1", Status: api.StatusRunning}}, 0, nil
}

func (f *fake) Cancel(_ context.Context, c model.Caller, id string) error {
	if err := f.sees(c, id); err != nil {
		return err
	}
	return f.note("cancel", id)
}

func (f *fake) Release(_ context.Context, _ model.Caller, id string) error {
	return f.note("release", id)
}

func (f *fake) Resume(_ context.Context, _ model.Caller, id string) error {
	return f.note("resume", id)
}
func (f *fake) Drain(context.Context, model.Caller) error { return f.note("drain") }

func (f *fake) AcceptFork(_ context.Context, _ model.Caller, id, backup string, again bool) error {
	return f.note("accept-fork", id, backup, strconv.FormatBool(again))
}

func (f *fake) RefusedReports(context.Context, model.Caller) ([]api.RefusedReport, error) {
	at := time.Unix(1000, 0).UTC()
	return []api.RefusedReport{{
		Number: 7, ID: "j-7", Type: "holdfast.backup.failed", Time: at, InstanceID: "phone-1", TaskID: "t", JobID: "j", Refused: at, Reason: "410 Gone",
	}}, f.note("refused")
}

func (f *fake) RetryReport(_ context.Context, _ model.Caller, n uint64) error {
	return f.note("retry", strconv.FormatUint(n, 10))
}

func (f *fake) GiveUpReport(_ context.Context, _ model.Caller, n uint64) error {
	return f.note("give up", strconv.FormatUint(n, 10))
}

func (f *fake) DropReport(_ context.Context, _ model.Caller, n uint64) error {
	if n == 8 {
		return api.UnknownReport("8")
	}
	return f.note("drop", strconv.FormatUint(n, 10))
}

func (f *fake) Kept(context.Context, model.Caller) ([]api.KeptContent, error) {
	at := time.Unix(1000, 0).UTC()
	return []api.KeptContent{{
		InstanceID: "phone-1", JobID: "j-1", Since: at, Seconds: 60, Left: 3600, Files: 3, Bytes: 4, Newest: at, KnownBackup: "b1", ReplacedBy: "b2",
		Volumes: []api.KeptVolume{{Name: "data", Path: "/srv/.holdfast-kept-j-1-data", From: "/srv/data"}},
	}}, f.note("kept")
}

func (f *fake) PutBack(_ context.Context, _ model.Caller, id, job string) (api.TaskAnswer, error) {
	return api.TaskAnswer{TaskID: "task-p", Jobs: []model.JobRef{{Instance: id, Job: "job-p"}}}, f.note("put back", id, job)
}

func (f *fake) RemoveKept(_ context.Context, _ model.Caller, id, job string) error {
	return f.note("remove kept", id, job)
}

func (f *fake) Throttle(context.Context, model.Caller) (api.Throttle, error) {
	if err := f.note("throttle"); err != nil {
		return api.Throttle{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t := api.Throttle{
		Up: api.Limit{Limit: 5 << 20, From: api.FromSchedule}, Down: api.Limit{From: api.FromConfiguration}, Requests: api.Limit{From: api.FromConfiguration},
		NextChange: time.Unix(2000, 0).UTC(), InFlight: 3, Level: 8,
	}
	for _, one := range []struct {
		set  *int64
		into *api.Limit
	}{{f.set.Up, &t.Up}, {f.set.Down, &t.Down}, {f.set.Requests, &t.Requests}} {
		if one.set != nil {
			*one.into = api.Limit{Limit: *one.set, From: api.FromOperator}
		}
	}
	return t, nil
}

func (f *fake) SetThrottle(ctx context.Context, c model.Caller, s api.ThrottleSetting) (api.Throttle, error) {
	f.mu.Lock()
	f.set = s
	f.mu.Unlock()
	return f.Throttle(ctx, c)
}

func (f *fake) called() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, "; ")
}

// tokens is an Authenticator by table.
var tokens = api.AuthFunc(func(_ context.Context, token string) (model.Caller, error) {
	switch token {
	case "t1":
		return model.Caller{Tenant: "t1", User: "u1", Role: model.RoleTenant}, nil
	case "t1-nouser":
		return model.Caller{Tenant: "t1", Role: model.RoleTenant}, nil
	case "t3-read":
		return model.Caller{Tenant: "t3", Role: model.RoleReadOnly}, nil
	case "plane":
		return model.Caller{Role: model.RoleControlPlane}, nil
	case "ops":
		return model.Caller{Role: model.RoleOperator}, nil
	case "nothing":
		return model.Caller{Tenant: "t1", Role: "cleaner"}, nil
	case "iam-down":
		return model.Caller{}, model.ErrAuthUnavailable
	case "broken":
		return model.Caller{}, io.ErrUnexpectedEOF
	}
	return model.Caller{}, model.ErrUnknownToken
})

// bed is a handler behind a real TLS server.
type bed struct {
	*fake
	t    *testing.T
	url  string
	http *http.Client
	log  *syncBuffer
	seen chan api.Exchange
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newBed serves the control-plane handler over TLS as the agent does.
func newBed(t *testing.T, adjust ...func(*http.Server)) *bed {
	t.Helper()
	return serveBed(t, func(_ *http.Server, l net.Listener) net.Listener { return l }, adjust...)
}

// serveBed is newBed with a listener that wrap has changed.
func serveBed(t *testing.T, wrap func(*http.Server, net.Listener) net.Listener, adjust ...func(*http.Server)) *bed {
	t.Helper()
	b := &bed{fake: newFake(), t: t, log: &syncBuffer{}, seen: make(chan api.Exchange, 100)}
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := api.NewHandler(b.fake, tokens, api.Options{Log: log, Observe: func(e api.Exchange) {
		select {
		case b.seen <- e:
		default:
		}
	}})
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS() // for its certificate alone
	cert.Close()
	srv := api.NewServer(documented(t, h), &tls.Config{Certificates: cert.TLS.Certificates}, log)
	for _, f := range adjust {
		f(srv)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + l.Addr().String()
	l = wrap(srv, l)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	pool := x509.NewCertPool()
	pool.AddCert(cert.Certificate())
	b.http = &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Timeout: 20 * time.Second,
	}
	b.url = url
	t.Cleanup(func() {
		b.http.CloseIdleConnections()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return b
}

// reply is an answer as it was read.
type reply struct {
	status int
	header http.Header
	Code   string          `json:"error_code"`
	Msg    string          `json:"error_msg"`
	Data   json.RawMessage `json:"data"`
	raw    string
}

func hdr(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h[http.CanonicalHeaderKey(kv[i])] = append(h[http.CanonicalHeaderKey(kv[i])], kv[i+1])
	}
	return h
}

// send makes one call and checks what holds for every answer: JSON, with code and message.
func (b *bed) send(method, path string, h http.Header, body io.Reader) reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header = h
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, raw: string(data)}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		b.t.Errorf("Content-Type %q: %s", ct, data)
	}
	if method == http.MethodHead {
		return r
	}
	if err := json.Unmarshal(data, &r); err != nil || r.Code == "" || r.Msg == "" {
		b.t.Errorf("not an answer of the contract: %v: %s", err, data)
	}
	return r
}
