package packaging_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent/config"
	"holdfast/internal/testbed"
)

const (
	testTenant   = "1008600000104285462"
	testInstance = "phone-1"
	testPhone    = "/usr/local/bin/phone" // acts on it
	testToken    = "a-token-of-the-control-plane"
)

// plane is the control plane of a machine: it sends commands and takes reports.
type plane struct {
	listen, metrics string // of the agent
	reports         *httptest.Server
	client          *http.Client
	certificate     []byte // of the agent, PEM
	key             []byte

	mu     sync.Mutex
	events []string // types of the reports, in the order they came
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{listen: testbed.FreeAddress(t), metrics: testbed.FreeAddress(t)}
	p.reports = httptest.NewServer(http.HandlerFunc(p.take))
	t.Cleanup(p.reports.Close)
	p.makeCertificate(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.certificate)
	p.client = &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	return p
}

// take acknowledges a report.
func (p *plane) take(w http.ResponseWriter, r *http.Request) {
	var event struct{ Type string }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	p.events = append(p.events, event.Type)
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"error_code":"0","error_msg":"OK"}`)
}

// seen counts the reports of a type.
func (p *plane) seen(kind string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e == kind {
			n++
		}
	}
	return n
}

// configure writes a whole configuration, with changes, and an instance's volume into the machine.
func (p *plane) configure(t *testing.T, m *machine, changes ...func(map[string]any)) {
	t.Helper()
	m.run(t, "holdfast", "key", "new", "--out", "/etc/holdfast/host.key")
	recovery := m.run(t, "holdfast", "key", "new", "--out", "/root/recovery.key")
	recovery = recovery[strings.LastIndex(recovery, "age1"):]
	recovery = strings.Fields(recovery)[0]

	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signing)
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "/etc/holdfast/signing.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	m.write(t, "/etc/holdfast/name.key", []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600)
	m.write(t, "/etc/holdfast/tls/cert.pem", p.certificate, 0o644)
	m.write(t, "/etc/holdfast/tls/key.pem", p.key, 0o600)
	m.write(t, "/etc/holdfast/tokens", fmt.Appendf(nil, "sha256:%x tenant=%s user=plane role=tenant\n",
		sha256.Sum256([]byte(testToken)), testTenant), 0o600)
	// While it is held, logind must know that the host is not to go down.
	m.write(t, testPhone, []byte(`#!/bin/sh
state=/srv/phone/state
case "$1" in
state) cat $state; exit ;;
start|thaw) echo "running $(cat /proc/sys/kernel/random/uuid)" >$state; exit ;;
down) sed -i "s/^[a-z]*/stopped/" $state; exit ;;
esac
for i in $(seq 200); do
	if systemd-inhibit --list --no-legend --no-pager | grep -q "holdfast.*shutdown.*delay"; then
		sed -i "s/^[a-z]*/frozen/" $state
		exit
	fi
	sleep 0.1
done
echo "nothing delays a shutdown: $(systemd-inhibit --list --no-legend --no-pager 2>&1)"
exit 1
`), 0o755)
	m.write(t, "/srv/phone/data/file", []byte("what the phone has stored\n"), 0o640)
	m.run(t, testPhone, "start")
	m.run(t, "holdfast", "store", "init", "--store", "file:///srv/store")

	cfg := map[string]any{
		"host_id":          "machine",
		"listen":           p.listen,
		"metrics_listen":   p.metrics,
		"tls":              map[string]any{"cert_file": "/etc/holdfast/tls/cert.pem", "key_file": "/etc/holdfast/tls/key.pem"},
		"tokens_file":      "/etc/holdfast/tokens",
		"store":            map[string]any{"url": "file:///srv/store", "name_key_file": "/etc/holdfast/name.key"},
		"key_file":         "/etc/holdfast/host.key",
		"recipients":       []any{recovery},
		"vault":            map[string]any{"auto_create": true},
		"signing_key_file": "/etc/holdfast/signing.pem",
		"report":           map[string]any{"url": p.reports.URL},
		"instances": []any{map[string]any{
			"id": testInstance, "tenant": testTenant, "runtime": map[string]any{"exec": map[string]any{
				"state": []any{testPhone, "state"}, "freeze": []any{testPhone, "freeze"}, "thaw": []any{testPhone, "thaw"},
				"power_down": []any{testPhone, "down"},
			}},
			"volumes": []any{map[string]any{"name": "data", "path": "/srv/phone/data"}},
		}},
	}
	for _, change := range changes {
		change(cfg)
	}
	text, err := json.MarshalIndent(cfg, "", "  ") // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, config.DefaultPath, text, 0o600)
}

// mustServe asks each listener once.
func (p *plane) mustServe(t *testing.T, m *machine) {
	t.Helper()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		res, err := p.client.Get("http://" + p.metrics + path)
		if err != nil {
			t.Fatalf("%v\n%s", err, m.journal(t))
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if status, body := p.call(t, http.MethodGet, "/v1/instances/tasks/none", "ask", ""); status == 0 || !strings.Contains(body, "error_code") {
		t.Errorf("the control plane's API answers %d %s", status, body)
	}
	m.run(t, "holdfast", "status")
}

// backUp sends a command, waits until its job is done and its reports are there.
func (p *plane) backUp(t *testing.T, m *machine, requestID string) {
	t.Helper()
	m.run(t, testPhone, "start") // it may be down since the last one
	completed, released := p.seen("holdfast.backup.completed"), p.seen("holdfast.instance.released")
	status, body := p.call(t, http.MethodPost, "/v1/instances/backup", requestID, `{"instance_ids":["`+testInstance+`"]}`)
	var answer struct {
		Data struct {
			TaskID string `json:"task_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || answer.Data.TaskID == "" {
		t.Fatalf("the command was answered %d %s", status, body)
	}
	done := waitFor(5*time.Minute, func() bool {
		_, body = p.call(t, http.MethodGet, "/v1/instances/tasks/"+answer.Data.TaskID, requestID+"-ask", "")
		var task struct {
			Data struct{ Jobs []struct{ Status int } } `json:"data"`
		}
		return json.Unmarshal([]byte(body), &task) == nil && len(task.Data.Jobs) == 1 && task.Data.Jobs[0].Status == 2
	})
	if !done {
		t.Fatalf("the job is not done: %s", body)
	}
	if !waitFor(5*time.Minute, func() bool {
		return p.seen("holdfast.backup.completed") > completed && p.seen("holdfast.instance.released") > released
	}) {
		t.Fatalf("the reports did not come: %v", p.events)
	}
}

func (p *plane) call(t *testing.T, method, path, requestID, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+p.listen+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", testToken)
	req.Header.Set("X-Request-Id", requestID)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(got)
}

func (p *plane) makeCertificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "machine"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	p.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
