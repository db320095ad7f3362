package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/agent/api"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// asDaemon makes a run of this test program a run of holdfastd:
// the test runs the very code, and nothing has to be built.
const asDaemon = "HOLDFASTD_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
	}
	testbed.LeakCheck(m)
}

// holdfastd is a command line of the program.
func holdfastd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	return cmd
}

// daemonRun is one run of the real program, with this process as its service manager.
type daemonRun struct {
	cmd     *exec.Cmd
	log     *logBuffer
	receive func() string
	metrics string // address
}

// logBuffer takes the daemon's log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// writeConfig writes a configuration with all its files into dir.
func writeConfig(t *testing.T, dir, metrics string) string {
	t.Helper()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signing)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	yaml, err := json.Marshal(map[string]any{ // JSON is YAML
		"host_id": "host-1", "state_dir": in("state"), "listen": "", "socket": in("s"), "metrics_listen": metrics,
		"store":    map[string]any{"url": "file://" + in("store"), "name_key_file": in("name.key")},
		"key_file": in("host.key"), "signing_key_file": in("signing.pem"),
		"report": map[string]any{"url": "http://127.0.0.1:1/reports"},
		"instances": []any{map[string]any{
			"id": "one", "tenant": "t", "runtime": map[string]any{"none": map[string]any{}},
			"volumes": []any{map[string]any{"name": "data", "path": in("data")}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"host.key":      text,
		"name.key":      []byte(strings.Repeat("k", 64)),
		"signing.pem":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"holdfast.yaml": yaml,
	} {
		if err := os.WriteFile(in(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	obstest.Folder(t, in("store"))
	if err := os.MkdirAll(in("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	return in("holdfast.yaml")
}

// startDaemon starts the program and waits until it says that it is ready.
func startDaemon(t *testing.T, configPath, metrics string) *daemonRun {
	t.Helper()
	socket, receive := listenNotify(t)
	d := &daemonRun{log: &logBuffer{}, receive: receive, metrics: metrics}
	d.cmd = holdfastd(t, "--config", configPath)
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+socket)
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		if t.Failed() {
			t.Logf("the daemon logged:\n%s", d.log)
		}
	})
	if got := receive(); !strings.HasPrefix(got, "READY=1\n") {
		t.Fatalf("the first message is %q", got)
	}
	return d
}

// end sends a signal and returns the exit code.
func (d *daemonRun) end(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if got := d.receive(); !strings.HasPrefix(got, "STOPPING=1\n") {
		t.Errorf("after %s it said %q", sig, got)
	}
	_ = d.cmd.Wait()
	return d.cmd.ProcessState.ExitCode()
}

// TestDaemonLife: ready only when it serves, SIGHUP reads the file again,
// each way to stop has its code, and after SIGKILL it starts again.
func TestDaemonLife(t *testing.T) {
	metrics := testbed.FreeAddress(t)
	dir := testbed.Dir(t)
	path := writeConfig(t, dir, metrics)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

	d := startDaemon(t, path, metrics)
	res, err := client.Get("http://" + metrics + "/readyz")
	if err != nil {
		t.Fatalf("ready, but it does not serve: %v", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("ready, but /readyz says %s", res.Status)
	}

	for _, c := range []struct{ content, want string }{
		{"", "the configuration file is valid"},
		{"nonsense: 1\n", "the configuration file has faults"},
	} {
		if c.content != "" {
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); !strings.Contains(d.log.String(), c.want); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("SIGHUP did not log %q", c.want)
			}
		}
	}
	if code := d.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("after SIGTERM the exit code is %d", code)
	}

	path = writeConfig(t, dir, metrics)
	d = startDaemon(t, path, metrics)
	if code := d.end(t, os.Interrupt); code != exitInterrupted {
		t.Errorf("after SIGINT the exit code is %d", code)
	}

	d = startDaemon(t, path, metrics)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	d = startDaemon(t, path, metrics)
	if code := d.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("started again after SIGKILL, the exit code is %d", code)
	}
}

// TestReloadTakesBandwidth: after SIGHUP the limits are the limits of the present
// file, the operator's limits stay, and the rest of the file waits for a restart.
func TestReloadTakesBandwidth(t *testing.T) {
	metrics := testbed.FreeAddress(t)
	dir := testbed.Dir(t)
	path := writeConfig(t, dir, metrics)
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, path, metrics)
	c := api.NewClient(filepath.Join(dir, "s"))
	five := int64(5)
	if _, err := c.SetThrottle(t.Context(), api.ThrottleSetting{Requests: &five}); err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(plain), `"host_id":"host-1"`, `"host_id":"host-2","bandwidth":{"up":"3MiB","requests":9}`, 1)
	for _, tt := range []struct {
		content string
		up      int64
	}{{changed, 3 << 20}, {changed + "\nnonsense: 1\n", 3 << 20}, {string(plain), 0}} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(d.log.String(), "the configuration file ")
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); strings.Count(d.log.String(), "the configuration file ") == lines; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("SIGHUP logged nothing")
			}
		}
		got, err := c.Throttle(t.Context())
		if err != nil || got.Up != (api.Limit{Limit: tt.up, From: api.FromConfiguration}) || got.Requests != (api.Limit{Limit: 5, From: api.FromOperator}) {
			t.Errorf("%+v, %v, want up %d", got, err, tt.up)
		}
	}
	if info, err := c.Info(t.Context()); err != nil || info.HostID != "host-1" {
		t.Errorf("%+v, %v", info, err)
	}
	if code := d.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("the exit code is %d", code)
	}
}

// TestDaemonListensLater: a port that is taken, or an address that is not there yet,
// keeps the daemon from nothing else, and is listened on once that is possible.
func TestDaemonListensLater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir, metrics := testbed.Dir(t), l.Addr().String()
	d := startDaemon(t, writeConfig(t, dir, metrics), metrics)
	if _, err := api.NewClient(filepath.Join(dir, "s")).Info(t.Context()); err != nil {
		t.Errorf("the socket: %v", err)
	}
	eventually(t, "the log says what is not listened on, and why", func() bool {
		log := d.log.String()
		return strings.Contains(log, "setting=metrics_listen") && strings.Contains(log, "address already in use")
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if res, err := client.Get("http://" + metrics + "/readyz"); err == nil {
			_ = res.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if code := d.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("the exit code is %d", code)
	}
}

// TestDaemonFailsAsOne: a second daemon of one host ends with a message and the code for failure.
func TestDaemonFailsAsOne(t *testing.T) {
	metrics := testbed.FreeAddress(t)
	path := writeConfig(t, testbed.Dir(t), metrics)
	startDaemon(t, path, metrics)
	out, err := holdfastd(t, "--config", path).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(string(out), "in use by another process") {
		t.Errorf("it said %s", out)
	}
}
