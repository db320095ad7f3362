package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// patience bounds every wait; the machine may be slow and shared.
const patience = 2 * time.Minute

// host is a machine with two instances of one tenant and one of
// another, a file store and a control plane.
type host struct {
	t      *testing.T
	dir    string
	cfg    string // YAML
	client *http.Client
	tokens map[string]string // by tenant; "" may see all
	plane  *plane
	lasts  time.Duration // the certificates that it makes
	disk   string        // a small disk of it; "": none
	btrfs  string        // another one; "": none
	waits  bool          // it does not become ready
	faulty bool          // its starts recover only
	socket string        // its name, where it is not "s"
	change func(*config.Config)

	agent *agent.Agent
	stop  func()
	logs  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// plane is the control plane: it keeps the events that it took, and answers as it is told.
type plane struct {
	mu     sync.Mutex
	events []model.Event
	// of each event
	sources []string
	status  func(e model.Event) int // of the answer, whose body follows from it; nil: 200
	page    string                  // the body of answers, in the place of the control plane's form
	server  *httptest.Server
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	e, source, err := report.Decode(body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	code := http.StatusOK
	if p.status != nil {
		code = p.status(e)
	}
	if code/100 == 2 {
		p.events, p.sources = append(p.events, e), append(p.sources, source)
	}
	answer := `{"error_code":"0","error_msg":"OK"}`
	if code/100 != 2 {
		answer = `{"error_code":"KOOPHONE.API.1000","error_msg":"as the test wants it"}`
	}
	w.Header().Set("Content-Type", "application/json")
	if p.page != "" {
		w.Header().Set("Content-Type", "text/html")
		answer = p.page
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, answer) // the agent may be gone
}

func (p *plane) answer(f func(e model.Event) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = f
}

// took returns the last event of the type that was acknowledged.
func (p *plane) took(kind, instance string) *model.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.events) - 1; i >= 0; i-- {
		if e := p.events[i]; e.Type == kind && e.Instance == instance {
			return &e
		}
	}
	return nil
}

// all returns the acknowledged events.
func (p *plane) all() []model.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// verb is the instances' only driver: their state is the content of a file, their generation how
// often they were let run. The shell does all of it by itself: the agent looks at the instances
// thousands of times in these tests, and further programs cost more than the shell.
const verb = `#!/bin/sh
f="$1/$HOLDFAST_INSTANCE.state"
case "$HOLDFAST_ACTION" in
state)
	n=0
	[ ! -e "$f.runs" ] || while read -r line; do n=$((n + 1)); done <"$f.runs"
	read -r s <"$f" && echo "$s run-$n"
	;;
freeze) echo frozen >"$f" ;;
thaw) echo running >"$f"; echo >>"$f.runs" ;;
*) echo stopped >"$f"; echo "$HOLDFAST_INSTANCE" >>"$1/downs" ;;
esac
`

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), tokens: map[string]string{}, plane: &plane{}, lasts: 90 * 24 * time.Hour, logs: &lockedBuffer{}}
	h.plane.server = httptest.NewServer(h.plane)
	t.Cleanup(h.plane.server.Close)
	h.write("verb", verb, 0o700)
	identity, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	recovery, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	h.write("host.key", string(key), 0o600)
	h.write("name.key", "a secret of the fleet\n", 0o600)
	lines := ""
	for _, tenant := range []string{"acme", "other", ""} {
		h.tokens[tenant] = auth.NewToken()
		line := auth.HashToken(h.tokens[tenant]) + " role=control-plane"
		if tenant != "" {
			line += " tenant=" + tenant
		}
		lines += line + "\n"
	}
	h.write("tokens", lines, 0o600)
	h.certificate()
	obstest.Folder(t, h.in("store"))
	instances := ""
	for id, tenant := range map[string]string{"phone-1": "acme", "phone-2": "acme", "phone-3": "other", "absent": "acme"} {
		h.write(id+".state", "running\n", 0o600)
		if id != "absent" {
			h.write(filepath.Join("volumes", id, "data", "file"), "what "+id+" holds", 0o640)
		}
		instances += fmt.Sprintf(`
  - id: %s
    tenant: %s
    runtime: {exec: {state: [%[3]s/verb, %[3]s], freeze: [%[3]s/verb, %[3]s], thaw: [%[3]s/verb, %[3]s], power_down: [%[3]s/verb, %[3]s]}}
    volumes: [{name: data, path: %[3]s/volumes/%[1]s, snapshot: freeze}]
`, id, tenant, h.dir)
	}
	h.cfg = fmt.Sprintf(`
host_id: host-1
state_dir: %[1]s/state
listen: 127.0.0.1:0
metrics_listen: 127.0.0.1:0
socket: %[1]s/s
tls: {cert_file: %[1]s/cert.pem, key_file: %[1]s/cert.key}
tokens_file: %[1]s/tokens
store: {url: "file://%[1]s/store", name_key_file: %[1]s/name.key}
key_file: %[1]s/host.key
recipients: [%[2]s]
vault: {auto_create: true}
signing_key_file: %[1]s/signing.pem
report: {url: "%[3]s/reports", progress: 1s}
limits: {drain_timeout: 5s}
instances: %[4]s
`, h.dir, recovery.Recipient(), h.plane.server.URL, instances)
	return h
}

func (h *host) in(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(name, content string, mode os.FileMode) {
	h.t.Helper()
	path := h.in(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "host-1"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(h.lasts), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		h.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	h.write("cert.pem", string(cert), 0o600)
	h.write("cert.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), 0o600)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	h.client = &http.Client{Transport: transport, Timeout: patience}
	h.t.Cleanup(transport.CloseIdleConnections)
}

// start runs an agent until stop is called, at the latest at the
// test's end, and waits until it is ready.
func (h *host) start() {
	h.t.Helper()
	ready, ended := h.launch()
	select {
	case <-ready:
	case <-ended:
		h.t.Fatal("the agent ended before it was ready")
	case <-time.After(patience):
		h.t.Fatal("the agent does not become ready")
	}
}

// launch is start without the wait.
func (h *host) launch() (ready, ended chan struct{}) {
	h.t.Helper()
	cfg, err := config.Parse([]byte(h.cfg), "test.yaml")
	if err != nil {
		h.t.Fatal(err)
	}
	if h.change != nil {
		h.change(cfg)
	}
	ready, ended = make(chan struct{}), make(chan struct{})
	h.agent, err = agent.Open(h.t.Context(), agent.Options{
		Config: cfg, Log: slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "1.2.3",
		Ready: func() { close(ready) }, Recover: h.faulty,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		if err := h.agent.Run(ctx); err != nil {
			h.t.Errorf("run: %v", err)
		}
	}()
	h.stop = sync.OnceFunc(func() { cancel(); <-ended })
	h.t.Cleanup(func() {
		h.stop()
		if h.t.Failed() {
			h.t.Log(h.logs.String())
		}
	})
	return ready, ended
}

// answer is an answer of the API.
type answer struct {
	Status int
	Header http.Header
	Code   string          `json:"error_code"`
	Msg    string          `json:"error_msg"`
	Data   json.RawMessage `json:"data"`
	// Results stands beside the data in the answer to batch-query-status.
	Results []api.InstanceStatus `json:"status_results"`
}

func (h *host) call(method, path, tenant, requestID, body string) answer {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.agent.Addr()+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", h.tokens[tenant])
	r.Header.Set("X-Request-Id", requestID)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := h.client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		h.t.Fatal(err)
	}
	return a
}

// backup sends a command and returns the task's id.
func (h *host) backup(tenant, requestID string, ids ...string) string {
	h.t.Helper()
	body, err := json.Marshal(map[string][]string{"instance_ids": ids})
	if err != nil {
		h.t.Fatal(err)
	}
	a := h.call(http.MethodPost, "/v1/instances/backup", tenant, requestID, string(body))
	var data api.TaskAnswer
	if a.Code != api.CodeOK || json.Unmarshal(a.Data, &data) != nil || len(data.Jobs) != len(ids) {
		h.t.Fatalf("backup: %+v", a)
	}
	return data.TaskID
}

func (h *host) state(id string) string {
	b, err := os.ReadFile(h.in(id + ".state"))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (h *host) eventually(what string, f func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	h.t.Fatalf("in vain: %s", what)
}

// The whole job with a real store: the receipt verifies, the instance goes down
// only after the acknowledgement, and the backup holds the instance's content.
func TestBackupReportRelease(t *testing.T) {
	h := newHost(t)
	asked := make(chan struct{}, 100)
	h.plane.answer(func(e model.Event) int {
		if e.Type != "holdfast.backup.completed" {
			return http.StatusNoContent
		}
		asked <- struct{}{}
		return http.StatusServiceUnavailable
	})
	h.start()
	task := h.backup("acme", "r1", "phone-1")
	for range 2 {
		<-asked
		if s := h.state("phone-1"); s != "frozen" {
			t.Errorf("before the acknowledgement it is %s", s)
		}
	}
	if again := h.backup("acme", "r1", "phone-1"); again != task {
		t.Errorf("task %s, then %s", task, again)
	}
	h.plane.answer(nil)
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	if s := h.state("phone-1"); s != "stopped" {
		t.Errorf("after the release it is %s", s)
	}

	e := h.plane.took("holdfast.backup.completed", "phone-1")
	var data struct {
		Backup  string          `json:"backup_id"`
		Receipt json.RawMessage `json:"receipt"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	public, err := h.agent.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := report.ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	s, err := report.Verify(t.Context(), data.Receipt, key)
	if err != nil {
		t.Fatal(err)
	}
	if s.Instance != "phone-1" || s.Tenant != "acme" || s.Task != task || s.Backup != data.Backup || s.Host != "host-1" ||
		s.Agent != "1.2.3" || s.Files != 1 || s.Bytes != uint64(len("what phone-1 holds")) || s.Verified.IsZero() || s.FreezeSeconds <= 0 {
		t.Errorf("receipt states %+v", s)
	}
	h.restoresTo(s, "what phone-1 holds")

	h.eventually("task success", func() bool {
		a := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "acme", "r2", "")
		return strings.Contains(string(a.Data), `"status":2`)
	})
	if a := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "other", "r2", ""); a.Code != api.CodeParameter {
		t.Errorf("another tenant sees the task: %+v", a)
	}
	h.metrics(`holdfast_jobs_total{kind="backup",result="success"} 1`, "holdfast_frozen_instances 0", "holdfast_jobs_active 0")
}

// restoresTo checks the stored object against the receipt, and its content.
func (h *host) restoresTo(s report.Statement, want string) {
	h.t.Helper()
	dest := h.in("restored")
	m := h.restore(s.Tenant, s.Instance, s.Backup, dest)
	if m.Digest != s.ManifestSHA256 || m.Object != s.Object {
		h.t.Errorf("manifest %s %s, receipt %s %s", m.Object, m.Digest, s.Object, s.ManifestSHA256)
	}
	if got, err := os.ReadFile(filepath.Join(dest, "data", "file")); err != nil || string(got) != want {
		h.t.Errorf("restored %q, %v", got, err)
	}
}

// restore writes a backup of the store to a path, as the command does, and returns its manifest.
func (h *host) restore(tenant, instance, backup, dest string) *vault.Manifest {
	h.t.Helper()
	ctx := h.t.Context()
	store, err := obs.Open(ctx, "file://"+h.in("store"), obs.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer store.Close()
	identity, err := vault.LoadIdentity(h.in("host.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	v, err := vault.Open(ctx, store, tenant, []byte("a secret of the fleet"), identity)
	if err != nil {
		h.t.Fatal(err)
	}
	defer v.Close()
	ref, err := v.Find(ctx, instance, backup)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := v.Manifest(ctx, ref)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Dest: dest}); err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *host) metrics(lines ...string) {
	h.t.Helper()
	resp, err := http.Get("http://" + h.agent.MetricsAddr() + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(string(page), line+"\n") {
			h.t.Errorf("metrics miss %q", line)
		}
	}
}

// Every refusal that needs to know the host, with its code.
func TestRefusals(t *testing.T) {
	h := newHost(t)
	h.plane.answer(func(model.Event) int { return http.StatusServiceUnavailable })
	h.start()
	h.backup("acme", "first", "phone-2")
	var words []string
	for _, c := range []struct {
		name, tenant, request, ids, code string
	}{
		{"unknown", "acme", "a", `"nowhere"`, api.CodeNoPermission},
		{"foreign", "other", "b", `"phone-1"`, api.CodeNoPermission},
		{"unknown, to one who sees all", "", "n", `"nowhere"`, api.CodeNoInstance},
		{"two tenants", "", "c", `"phone-1","phone-3"`, api.CodeManyTenants},
		{"storage is not here", "acme", "d", `"absent"`, api.CodeNotRunning},
		{"in backup", "acme", "e", `"phone-1","phone-2"`, api.CodeInBackup},
		{"other body", "acme", "first", `"phone-1"`, api.CodeParameter},
	} {
		a := h.call(http.MethodPost, "/v1/instances/backup", c.tenant, c.request, `{"instance_ids":[`+c.ids+`]}`)
		if a.Code != c.code || a.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s %s, want %s", c.name, a.Status, a.Code, a.Msg, c.code)
		}
		words = append(words, a.Msg)
	}
	if strings.ReplaceAll(words[0], "nowhere", "") != strings.ReplaceAll(words[1], "phone-1", "") {
		t.Errorf("a foreign instance is told from an unknown one: %q, %q", words[0], words[1])
	}
	if s := h.state("phone-1"); s != "running" {
		t.Errorf("a refused batch touched an instance: it is %s", s)
	}
	client := api.NewClient(h.in("s"))
	if err := client.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := h.call(http.MethodPost, "/v1/instances/backup", "acme", "late", `{"instance_ids":["phone-1"]}`)
	if a.Code != api.CodeInternal || a.Status != http.StatusInternalServerError || a.Header.Get("Retry-After") == "" {
		t.Errorf("while draining: %+v", a)
	}
}

// An unacknowledged report outlives the agent: the instance
// stays frozen, and the next life reports and releases it.
func TestRestart(t *testing.T) {
	h := newHost(t)
	h.plane.answer(func(e model.Event) int { return http.StatusBadGateway })
	h.start()
	task := h.backup("acme", "r1", "phone-1")
	h.eventually("stored", func() bool {
		a := h.call(http.MethodGet, "/v1/instances/tasks/"+task, "acme", "r2", "")
		return strings.Contains(string(a.Data), "reported, not acknowledged yet")
	})
	h.trouble(func(i api.Info) *api.Trouble { return i.Trouble("reports_fail") }, "502")
	watched, seen := make(chan error, 1), make(chan string, 10)
	go func() {
		watched <- api.NewClient(h.in("s")).Watch(t.Context(), task, func(e api.Event) error { seen <- e.Stage; return nil })
	}()
	if stage := <-seen; stage != "reported" {
		t.Errorf("it is told to be %s", stage)
	}
	h.stop()
	if err := <-watched; !errors.Is(err, api.ErrCut) {
		t.Errorf("the stream of a task that goes on ended with %v", err)
	}
	if s := h.state("phone-1"); s != "frozen" {
		t.Errorf("between two lives it is %s", s)
	}
	if _, err := os.Lstat(h.in("s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	h.plane.answer(nil)
	h.start()
	if again := h.backup("acme", "r1", "phone-1"); again != task {
		t.Errorf("task %s, then %s", task, again)
	}
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	downs, err := os.ReadFile(h.in("downs"))
	if err != nil || string(downs) != "phone-1\n" {
		t.Errorf("powered down: %q, %v", downs, err)
	}
	var types []string
	for _, e := range h.plane.events {
		if e.Type != "holdfast.backup.progress" {
			types = append(types, e.Type)
		}
	}
	if got := strings.Join(types, " "); got != "holdfast.backup.started holdfast.backup.completed holdfast.instance.released" {
		t.Errorf("events %s", got)
	}
}

// Release and resume by the operator's socket, and a watcher that sees a task to its end.
func TestReleaseByControlPlane(t *testing.T) {
	h := newHost(t)
	h.cfg += "\nrelease: control-plane\n"
	h.start()
	client := api.NewClient(h.in("s"))
	a, err := client.Backup(t.Context(), "r1", []string{"phone-1", "phone-2"})
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	var last []api.Event
	go func() {
		watched <- client.Watch(t.Context(), a.TaskID, func(e api.Event) error {
			if e.Type == api.EventEnded {
				last = append(last, e)
			}
			return nil
		})
	}()
	for _, id := range []string{"phone-1", "phone-2"} {
		h.eventually("acknowledged", func() bool {
			jobs, err := client.Jobs(t.Context(), api.JobFilter{InstanceID: id, Active: true})
			return err == nil && len(jobs) == 1 && jobs[0].Stage == "acknowledged"
		})
	}
	for range 2 {
		if err := client.Release(t.Context(), "phone-1"); err != nil {
			t.Error(err)
		}
		if err := client.Resume(t.Context(), "phone-2"); err != nil {
			t.Error(err)
		}
		h.eventually("down", func() bool { return h.state("phone-1") == "stopped" && h.state("phone-2") == "running" })
		time.Sleep(100 * time.Millisecond)
	}
	if err := <-watched; err != nil || len(last) != 2 || last[0].Status != api.StatusSuccess {
		t.Errorf("watch: %v, %+v", err, last)
	}
	if err := client.Release(t.Context(), "phone-3"); err == nil {
		t.Error("an instance without a backup was released")
	}
	list, err := client.Instances(t.Context())
	if err != nil || len(list) != 4 || list[1].LastBackup == "" || list[1].State != "stopped" {
		t.Errorf("%+v, %v", list, err)
	}
	info, err := client.Info(t.Context())
	if err != nil || info.HostID != "host-1" || info.Instances != 4 {
		t.Errorf("%+v, %v", info, err)
	}
}

// trouble waits until the agent tells of what fails, with want in it; "" until all is well.
func (h *host) trouble(of func(api.Info) *api.Trouble, want string) {
	h.t.Helper()
	client := api.NewClient(h.in("s"))
	h.eventually("trouble "+want, func() bool {
		info, err := client.Info(h.t.Context())
		if err != nil {
			h.t.Fatal(err)
		}
		t := of(info)
		return t == nil && want == "" || t != nil && want != "" && strings.Contains(t.Error, want) && !t.Since.IsZero()
	})
}

// A store that fails is told of until it answers again, by the
// failed job and by what operators ask.
func TestStoreTrouble(t *testing.T) {
	h := newHost(t)
	h.start()
	of := func(i api.Info) *api.Trouble { return i.Trouble("store_fails") }
	h.trouble(of, "")
	if err := os.Rename(h.in("store"), h.in("away")); err != nil {
		t.Fatal(err)
	}
	h.backup("acme", "r1", "phone-1")
	h.trouble(of, "the store's folder is not there")
	if err := os.Rename(h.in("away"), h.in("store")); err != nil {
		t.Fatal(err)
	}
	h.eventually("failed", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
	h.backup("acme", "r2", "phone-1")
	h.trouble(of, "")
}

// A bucket that is not there is told of at the start, before a job fails.
func TestStoreProbe(t *testing.T) {
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchBucket</Code></Error>")
	}))
	defer store.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "file://"+h.in("store"), "s3://a-bucket/p?region=r&endpoint="+store.URL, 1)
	h.start()
	h.trouble(func(i api.Info) *api.Trouble { return i.Trouble("store_fails") }, "no such bucket")
	if info, err := api.NewClient(h.in("s")).Info(t.Context()); err != nil || !strings.Contains(info.Trouble("store_fails").Hint, "make the bucket") {
		t.Errorf("%+v, %v: no hint", info.Troubles, err)
	}
}

// A tenant without a vault: the job fails with the command to type, and the instance runs again.
func TestNoVault(t *testing.T) {
	h := newHost(t)
	h.cfg = strings.Replace(h.cfg, "auto_create: true", "auto_create: false", 1)
	h.start()
	h.backup("acme", "r1", "phone-1")
	h.eventually("failed", func() bool { return h.plane.took("holdfast.backup.failed", "phone-1") != nil })
	if e := h.plane.took("holdfast.backup.failed", "phone-1"); !strings.Contains(string(e.Data), "holdfast vault create") {
		t.Errorf("%s", e.Data)
	}
	if s := h.state("phone-1"); s != "running" {
		t.Errorf("it is %s", s)
	}
}

func TestOpenFaults(t *testing.T) {
	h := newHost(t)
	h.start()
	cfg, err := config.Parse([]byte(h.cfg), "test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Open(t.Context(), agent.Options{Config: cfg}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second agent on one journal: %v", err)
	}
	other := *cfg
	other.StateDir = h.in("state-2")
	if _, err := agent.Open(t.Context(), agent.Options{Config: &other}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent on one socket: %v", err)
	}
	if err := h.agent.Alive(t.Context()); err != nil {
		t.Error(err)
	}
}

// Invariant tenant-walls: a tenant's requests tell it nothing
// about another tenant, and change nothing of the other.
func TestInvariantTenantWalls(t *testing.T) {
	h := newHost(t)
	h.cfg += "\nrelease: control-plane\n"
	h.start()
	task := h.backup("acme", "same-id", "phone-1")
	h.eventually("acknowledged", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
	// The request id of one tenant is free for another.
	if other := h.backup("other", "same-id", "phone-3"); other == task {
		t.Error("one task for two tenants")
	}
	for _, c := range []struct{ method, path, code string }{
		{http.MethodGet, "/v1/instances/tasks/" + task, api.CodeParameter},
		{http.MethodGet, "/v1/agent/tasks/" + task, api.CodeParameter},
		{http.MethodGet, "/v1/agent/tasks/" + task + "/events", api.CodeParameter},
		{http.MethodPost, "/v1/agent/tasks/" + task + "/cancel", api.CodeParameter},
		{http.MethodPost, "/v1/agent/instances/phone-1/release", api.CodeNoPermission},
		{http.MethodPost, "/v1/agent/instances/phone-1/resume", api.CodeNoPermission},
	} {
		a := h.call(c.method, c.path, "other", "r", "")
		unknown := h.call(c.method, strings.NewReplacer(task, "0000", "phone-1", "nowhere").Replace(c.path), "other", "r", "")
		if a.Code != c.code {
			t.Errorf("%s %s: %s %s, want %s", c.method, c.path, a.Code, a.Msg, c.code)
		}
		if got, want := strings.NewReplacer(task, "0000", "phone-1", "nowhere").Replace(a.Msg), unknown.Msg; got != want {
			t.Errorf("%s: %q, of one that is not there %q", c.path, a.Msg, want)
		}
	}
	for _, path := range []string{"/v1/agent/instances", "/v1/agent/jobs", "/v1/agent/info"} {
		a := h.call(http.MethodGet, path, "other", "r", "")
		if a.Code != api.CodeOK || strings.Contains(string(a.Data), "phone-1") || strings.Contains(string(a.Data), "acme") {
			t.Errorf("%s: %+v %s", path, a, a.Data)
		}
	}
	if s := h.state("phone-1"); s != "frozen" {
		t.Errorf("another tenant's call changed the instance: it is %s", s)
	}
	// Each tenant has a vault of its own: no object is named by both.
	h.eventually("the other's backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-3") != nil })
	folders, err := os.ReadDir(h.in("store"))
	if err != nil {
		t.Fatal(err)
	}
	vaults := 0
	for _, f := range folders {
		if len(f.Name()) == 32 {
			vaults++
		}
		if strings.Contains(f.Name(), "acme") || strings.Contains(f.Name(), "other") {
			t.Errorf("object name %s tells the tenant", f.Name())
		}
	}
	if vaults != 2 {
		t.Errorf("%d vaults: %v", vaults, folders)
	}
}
