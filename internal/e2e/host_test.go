package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds every wait; the machine may be slow and shared.
const patience = 10 * time.Minute

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

// within is eventually for what may take longer.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", limit, what)
		}
	}
}

// programs are the two binaries, built once, with the crash points in the daemon.
var programs struct {
	sync.Once
	dir string
	err error
}

func program(t testing.TB, name string) string {
	t.Helper()
	programs.Do(func() {
		programs.dir, programs.err = testbed.SharedDir()
		if programs.err != nil {
			return
		}
		for name, pkg := range map[string]string{
			"holdfast": "holdfast/cmd/holdfast", "holdfastd": "holdfast/cmd/holdfastd",
			"writer": "./testdata/writer", "burster": "./testdata/burster", "neighbour": "./testdata/neighbour",
		} {
			programs.err = errors.Join(programs.err, testbed.Build(filepath.Join(programs.dir, name), pkg, "-tags", "crashpoints"))
		}
	})
	must(t, programs.err)
	return filepath.Join(programs.dir, name)
}

const tenant, token = "1008600000104285462", "token-of-the-control-plane"

// host is one server with an agent.
type host struct {
	t       *testing.T
	dir     string
	plane   *plane
	env     []string
	store   string
	api     string // address
	metrics string // address
	client  *http.Client
	key     string // age identity

	instances strings.Builder // YAML
	extra     string          // YAML of the top level

	proc *exec.Cmd
	done chan struct{} // closed when proc ended
	log  *os.File
}

// newHost prepares a host whose agent reports to plane and stores to the URL.
func newHost(t *testing.T, p *plane, store string, env ...string) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), plane: p, store: store, env: env, api: testbed.FreeAddress(t), metrics: testbed.FreeAddress(t)}
	h.key = filepath.Join(h.dir, "host.key")
	pool := x509.NewCertPool()
	pool.AddCert(testbed.WriteCertificate(t, filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem"), "127.0.0.1"))
	h.client = &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
	}}
	must(t, os.WriteFile(filepath.Join(h.dir, "tokens"), []byte(auth.HashToken(token)+" tenant="+tenant+" role=tenant\n"), 0o600))
	h.cli("key", "new", "--out", h.key)
	h.cli("vault", "create", "--vault", tenant)
	log, err := os.Create(filepath.Join(h.dir, "log"))
	must(t, err)
	h.log = log
	t.Cleanup(func() {
		h.kill()
		_ = log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("log of the agent:\n%s", b[max(0, len(b)-8000):])
		}
	})
	return h
}

// addDocker adds an instance that is a container.
func (h *host) addDocker(id, dockerHost, container, volume string) {
	fmt.Fprintf(&h.instances, `
  - id: %s
    tenant: "%s"
    runtime: {docker: {container: %s, host: "%s"}}
    volumes: [{name: data, path: %s}]
`, id, tenant, container, dockerHost, volume)
}

func (h *host) writeConfig() string {
	path := filepath.Join(h.dir, "holdfast.yaml")
	must(h.t, os.WriteFile(path, []byte(fmt.Sprintf(`
host_id: test-host
state_dir: %[1]s/state
listen: %[2]s
tls: {cert_file: %[1]s/cert.pem, key_file: %[1]s/key.pem}
tokens_file: %[1]s/tokens
socket: %[1]s/socket
metrics_listen: %[3]s
brake: {cpu: 0, io: 0, memory: 0} # a busy machine is no reason to slow down here
store: {url: "%[4]s"}
key_file: %[5]s
signing_key_file: %[1]s/signing.pem
report: {url: "%[6]s/reports", ca_file: %[7]s}
%[8]s
instances:%[9]s`, h.dir, h.api, h.metrics, h.store, h.key, h.plane.server.URL, h.plane.caFile, h.extra, h.instances.String())), 0o600))
	return path
}

// start runs the agent and waits until it says that it serves. With
// a crash point it may die before.
func (h *host) start(crashAt string) {
	h.t.Helper()
	h.launch(crashAt)
	eventually(h.t, "agent serves", func() bool {
		select {
		case <-h.done:
			if crashAt == "" {
				h.t.Fatalf("agent ended: %v", h.proc.ProcessState)
			}
			return true
		default:
		}
		res, err := http.Get("http://" + h.metrics + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	http.DefaultClient.CloseIdleConnections()
}

func (h *host) launch(crashAt string) {
	h.t.Helper()
	h.proc = exec.Command(program(h.t, "holdfastd"), "--config", h.writeConfig())
	h.proc.Env = append(os.Environ(), h.env...)
	if crashAt != "" {
		h.proc.Env = append(h.proc.Env, "HOLDFAST_CRASH_AT="+crashAt)
	}
	h.proc.Stderr, h.proc.Stdout = h.log, h.log
	must(h.t, h.proc.Start())
	done := make(chan struct{})
	h.done = done
	go func(p *exec.Cmd) {
		_ = p.Wait() // its state says how it ended
		close(done)
	}(h.proc)
}

// kill ends the agent with SIGKILL, if it runs.
func (h *host) kill() {
	if h.proc == nil {
		return
	}
	_ = h.proc.Process.Kill() // it may have ended
	<-h.done
	h.proc = nil
}

// stop ends the agent in good order and returns its exit code.
func (h *host) stop() int {
	h.t.Helper()
	must(h.t, h.proc.Process.Signal(syscall.SIGTERM))
	select {
	case <-h.done:
	case <-time.After(patience):
		h.t.Fatal("agent does not stop")
	}
	code := h.proc.ProcessState.ExitCode()
	h.proc = nil
	return code
}

// killed waits until the agent died by SIGKILL at its crash point.
func (h *host) killed() {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(patience):
		h.t.Fatal("the agent does not come past its crash point")
	}
	if ws, ok := h.proc.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		h.t.Fatalf("agent ended by itself: %v", h.proc.ProcessState)
	}
	h.proc = nil
}

// answer is the control plane contract's form of every answer.
type answer struct {
	Status int    `json:"-"`
	Code   string `json:"error_code"`
	Msg    string `json:"error_msg"`
	Data   struct {
		TaskID  string `json:"task_id"`
		CmdJobs []struct {
			InstanceID string `json:"instance_id"`
			JobID      string `json:"job_id"`
		} `json:"cmd_jobs"`
		Jobs []struct {
			JobID      string `json:"job_id"`
			Status     int    `json:"status"`
			ErrorCode  string `json:"error_code"`
			ErrorMsg   string `json:"error_msg"`
			ExecuteMsg string `json:"execute_msg"`
		} `json:"jobs"`
	} `json:"data"`
}

func (h *host) call(method, path, requestID string, body any) (answer, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	if body == nil {
		b = nil
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+h.api+path, bytes.NewReader(b))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("X-Request-Id", requestID)
	res, err := h.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: res.StatusCode}
	if err := json.Unmarshal(raw, &a); err != nil {
		return answer{}, fmt.Errorf("%w: %s", err, raw)
	}
	return a, nil
}

// backup commands a backup and returns the task's id.
func (h *host) backup(requestID string, ids ...string) string {
	h.t.Helper()
	a, err := h.call(http.MethodPost, "/v1/instances/backup", requestID, map[string]any{"instance_ids": ids})
	must(h.t, err)
	if a.Status != http.StatusOK || a.Code != "0" || a.Data.TaskID == "" || len(a.Data.CmdJobs) != len(ids) {
		h.t.Fatalf("backup answers %+v", a)
	}
	return a.Data.TaskID
}

// vaultFlags are those with which the CLI finds this host's vault.
func (h *host) vaultEnv() []string {
	return append(append(os.Environ(), h.env...), "HOLDFAST_STORE="+h.store, "HOLDFAST_KEY="+h.key, "HOLDFAST_VAULT="+tenant)
}

// cli runs holdfast and returns its output.
func (h *host) cli(args ...string) string {
	h.t.Helper()
	c := exec.Command(program(h.t, "holdfast"), args...)
	c.Env = h.vaultEnv()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		h.t.Fatalf("holdfast %q: %v\n%s%s", args, err, out.String(), errs.String())
	}
	return out.String()
}

// restore restores the newest backup of an instance to a new folder.
func (h *host) restore(instance string) string {
	h.t.Helper()
	dest := filepath.Join(h.t.TempDir(), "restored")
	h.cli("restore", "--instance", instance, dest)
	return dest
}

// receipt returns the statement of the one completed report of an instance, verified.
func (h *host) receipt(e model.Event) report.Statement {
	h.t.Helper()
	pem, err := os.ReadFile(filepath.Join(h.dir, "signing.pem.pub"))
	must(h.t, err)
	pub, err := report.ParsePublic(pem)
	must(h.t, err)
	raw, err := json.Marshal(data(h.t, e)["receipt"])
	must(h.t, err)
	s, err := report.Verify(h.t.Context(), raw, pub)
	must(h.t, err)
	return s
}

// differences compares two trees with rsync, which is not ours. The mark of the agent on a volume
// belongs to no backup, so it does not count; system attributes are left out as by rsync itself.
func differences(t testing.TB, a, b string) string {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes",
		"--filter=-x "+origin.Attribute, "--filter=-x system.*", a+"/", b+"/").CombinedOutput()
	if err != nil {
		t.Fatalf("rsync: %v\n%s", err, out)
	}
	return string(out)
}

// lines returns the numbers that a program printed.
func lines(b []byte) []string { return strings.Fields(string(b)) }
