package fleet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/internal/testbed"
)

// Which of a network's servers is what.
const (
	planeServer = iota
	storeServer
	controlServer // from where commands come
)

// host is one server of the fleet with an agent, kept running as a service manager would.
type host struct {
	f      *fleet
	name   string
	id     string // by which its agent calls itself
	dir    string
	state  string // a disk of its own
	boot   string // file with the id of the boot
	net    *testbed.Network
	clock  *testbed.Clock
	store  *storeGate
	plane  gate // how the control plane answers this host
	client *http.Client
	socket *api.Client
	// refused: the control plane refused reports that an operator has not had sent again.
	refused atomic.Bool
	// use is held for reading while the plane has a tablet's command under way on the host, and for
	// writing while people do something to the host's state folder. calm is set then: no fault
	// happens to the host.
	use    sync.RWMutex
	calm   atomic.Bool
	faults atomic.Int32 // that happen to the host

	mu      sync.Mutex
	agent   *exec.Cmd
	ended   chan struct{} // closed when agent has ended
	began   time.Time
	away    int  // reasons for which no agent is to run
	paused  bool // by SIGSTOP
	starved bool // its disk is full
	reboots int
}

func newHost(f *fleet, name string) *host {
	h := &host{f: f, name: name, id: name, net: testbed.StartNetwork(f.t), clock: testbed.NewClock(f.t)}
	h.dir = filepath.Join(f.dir, h.name)
	must(f.t, os.MkdirAll(filepath.Join(f.disk, h.name), 0o755))
	must(f.t, os.Mkdir(h.dir, 0o755))
	h.state = testbed.Tmpfs(f.t, "size=96m,mode=700")
	h.boot = filepath.Join(h.dir, "boot_id")
	h.newBoot()
	cert := testbed.WriteCertificate(f.t, filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem"), h.net.Host)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(h.net.Servers[controlServer])}, Timeout: 5 * time.Second}
	h.client = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true, DialContext: from.DialContext,
	}}
	h.socket = api.NewClient(filepath.Join(h.dir, "socket"))
	h.store = startStoreGate(f, h.net.Servers[storeServer])
	h.tokens("")
	f.t.Cleanup(func() {
		h.mu.Lock()
		h.away++
		agent, ended := h.agent, h.ended
		h.mu.Unlock()
		if agent != nil {
			_ = agent.Process.Kill()
			<-ended
		}
		for _, p := range f.everything() {
			if v := p.look(h); v.pid != 0 {
				_ = unix.Kill(v.pid, unix.SIGKILL)
			}
		}
		text, _ := os.ReadFile(filepath.Join(h.dir, "log"))
		keep(f.t, h.name+".log", text)
	})
	return h
}

// tokens writes the file of tokens, with a line more.
func (h *host) tokens(more string) {
	text := ""
	for _, t := range tenants {
		text += auth.HashToken(t.token) + " tenant=" + t.id + " role=control-plane\n"
	}
	must(h.f.t, os.WriteFile(filepath.Join(h.dir, "tokens"), []byte(text+more), 0o600))
}

// newBoot gives the host another boot id.
func (h *host) newBoot() {
	h.reboots++
	id := fmt.Sprintf("3d0c2a52-7d5f-4a0b-8c6a-%012d\n", h.reboots)
	must(h.f.t, os.WriteFile(h.boot, []byte(id), 0o644))
}

func (h *host) configure() {
	var instances strings.Builder
	for _, p := range h.f.phones {
		command := fmt.Sprintf("[%s, %s, %s]", h.f.tools.phone, p.dir(h), p.volume(h))
		fmt.Fprintf(&instances, `
  - id: %s
    tenant: "%s"
    release: %s
    hold: %s
    runtime: {exec: {state: %[5]s, freeze: %[5]s, thaw: %[5]s, power_down: %[5]s, start: %[5]s, timeout: 30s}}
    volumes: [{name: data, path: %[6]s}]
`, p.id, p.tenant().id, p.release, p.hold, command, p.volume(h))
	}
	for _, d := range h.f.tablets {
		command := fmt.Sprintf("[%s, %s, %s]", h.f.tools.phone, d.dir(h), d.home(h))
		fmt.Fprintf(&instances, `
  - id: %s
    tenant: "%s"
    release: %s
    hold: %s
    runtime: {exec: {state: %[5]s, freeze: %[5]s, thaw: %[5]s, power_down: %[5]s, start: %[5]s, timeout: 30s}}
    volumes: [{name: data, path: %[6]s/data}, {name: media, path: %[6]s/media}]
`, d.id, d.tenant().id, d.release, d.hold, command, d.home(h))
	}
	store := h.f.minio.URLVia(h.store.endpoint, h.f.store, "fleet")
	must(h.f.t, os.WriteFile(filepath.Join(h.dir, "holdfast.yaml"), fmt.Appendf(nil, `
host_id: %[1]s
state_dir: %[2]s
listen: %[3]s:8443
tls: {cert_file: %[4]s/cert.pem, key_file: %[4]s/key.pem}
tokens_file: %[4]s/tokens
socket: %[4]s/socket
metrics_listen: 127.0.0.1:9477
brake: {cpu: 0, io: 0, memory: 0}
store: {url: "%[5]s"}
key_file: %[6]s
report: {url: "https://%[7]s/reports", ca_file: %[8]s}
prepare: {start: true}
limits: {drain_timeout: 5s, frozen_deadline: 2m, memory: 128MiB, jobs: 3}
instances:%[9]s`, h.id, h.state, h.net.Host, h.dir, store, h.f.key, h.f.plane.address(h), h.f.plane.caFile, instances.String()), 0o600))
}

// keep starts the agent whenever it does not run and is to, until ctx ends.
func (h *host) keep(ctx context.Context) {
	for pause(ctx, 300*time.Millisecond) {
		h.mu.Lock()
		down := h.agent == nil && h.away == 0
		h.mu.Unlock()
		if down {
			h.launch()
		}
	}
}

// resend has the agent send again the reports that the control plane
// refused, as an operator does after mending the control plane.
func (h *host) resend(ctx context.Context) {
	if !h.refused.Load() || h.plane.get() == "refuses" {
		return
	}
	h.refused.Store(false)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, h.f.tools.cli, "reports", "retry", "--all", "--socket", filepath.Join(h.dir, "socket")).CombinedOutput(); err != nil {
		h.f.trail.note("%s: send refused reports again: %v: %s", h.name, err, out)
		h.refused.Store(true)
	}
}

// daemon is the agent's program with that command, with the boot id of the host.
func (h *host) daemon(command ...string) *exec.Cmd {
	cmd := exec.Command("unshare", append([]string{
		"--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, h.boot,
		h.f.tools.daemon, "--config", filepath.Join(h.dir, "holdfast.yaml"),
	}, command...)...)
	cmd.Env = append(append(os.Environ(), h.f.minio.Env()...), h.clock.Env()...)
	return cmd
}

// launch starts the agent in the network of the host and with its boot id.
func (h *host) launch() {
	log, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.f.found("open the log of %s: %v", h.name, err)
		return
	}
	defer log.Close()
	cmd := h.daemon()
	cmd.Stdout, cmd.Stderr = log, log
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.net.Do(cmd.Start); err != nil {
		h.f.found("start the agent of %s: %v", h.name, err)
		return
	}
	ended := make(chan struct{})
	h.agent, h.ended, h.began = cmd, ended, time.Now()
	h.f.trail.count("starts of agents")
	go func() {
		_ = cmd.Wait() // its state says how it ended
		h.endCommands()
		h.mu.Lock()
		h.agent = nil
		h.mu.Unlock()
		h.f.trail.note("%s: the agent ended: %v", h.name, cmd.ProcessState)
		close(ended)
	}()
}

// endCommands ends the commands of an agent that was killed, as a
// service manager does that kills the whole control group.
func (h *host) endCommands() {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(line, []byte(h.f.tools.phone+"\x00"+h.dir+"/")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err == nil {
			_ = signalPhone(pid, unix.SIGKILL)
		}
	}
}

// signal sends the agent a signal, if it runs, and gives what to wait for then.
func (h *host) signal(sig os.Signal) (ended chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agent == nil {
		ended = make(chan struct{})
		close(ended)
		return ended
	}
	_ = h.agent.Process.Signal(sig) // it may have ended
	return h.ended
}

// down ends the agent, and no other is started before up is called.
func (h *host) down(sig os.Signal) {
	h.mu.Lock()
	h.away++
	h.mu.Unlock()
	<-h.signal(sig)
}

func (h *host) up() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away--
}

// end stops the agent for good, in good order.
func (h *host) end() {
	h.mu.Lock()
	agent := h.agent
	h.mu.Unlock()
	h.down(syscall.SIGTERM)
	if agent == nil || agent.ProcessState.ExitCode() != 0 {
		h.f.found("the agent of %s does not end in good order", h.name)
	}
}

// well tells whether the agent has run for that long with nothing that keeps it from answering.
func (h *host) well(since time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agent != nil && !h.paused && !h.starved && time.Since(h.began) > since
}

// answer is the answer to a command.
type answer struct {
	Status int    `json:"-"`
	Code   string `json:"error_code"`
	Msg    string `json:"error_msg"`
	Data   struct {
		TaskID  string `json:"task_id"`
		CmdJobs []struct {
			JobID string `json:"job_id"`
		} `json:"cmd_jobs"`
		Jobs []struct {
			Status     int    `json:"status"`
			ExecuteMsg string `json:"execute_msg"`
		} `json:"jobs"`
	} `json:"data"`
}

// call is a call of the control plane for that tenant over the network.
func (h *host) call(ctx context.Context, t *tenant, method, path, requestID string, body any) (answer, error) {
	var send io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+h.net.Host+":8443"+path, send)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Auth-Token", t.token)
	req.Header.Set("X-Request-Id", requestID)
	res, err := h.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	a := answer{Status: res.StatusCode}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&a); err != nil {
		return answer{}, err
	}
	return a, nil
}

// metric reads a metric without labels from the host's page.
func (h *host) metric(ctx context.Context, name string) (float64, error) {
	local := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: h.net.Dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9477/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := local.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("%s: no metric %s", h.name, name)
}
