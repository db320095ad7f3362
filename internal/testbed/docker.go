package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience with the container engine: it needs one to two seconds
// to start, and as much to stop, on an idle machine.
const (
	dockerStartPatience = 3 * time.Minute
	dockerStopPatience  = 20 * time.Second
	dockerCallPatience  = 60 * time.Second
)

// BusyboxImage is an image, in every started engine, that holds a
// static busybox and its applets in /bin.
const BusyboxImage = "busybox:test"

// Docker is a container engine of the test's own, without a network, beside any that the host has.
// Its methods may be called from several goroutines.
type Docker struct {
	Host string // unix:///…, for clients

	podman bool   // it is podman's service, which speaks docker's language
	config string // daemon.json
	dir    string
	proc   *process
	client *http.Client
}

// Container describes a container that StartDocker's engine is to run.
type Container struct {
	Name    string   // "" for a name of the engine's choice
	Image   string   // "" for BusyboxImage
	Command []string // program and arguments
	Binds   []string // "/host/path:/path/inside"
	Env     []string
	Restart string // policy of the engine; "" for no
}

// ContainerState is the engine's description of a container's state.
type ContainerState struct {
	Status   string // created, running, paused, exited, …
	Running  bool   // also true while paused
	Paused   bool
	ExitCode int
	Pid      int // of its first process, in the host's numbers; 0 when it does not run
}

// shared is the one engine of this test process: each costs seconds to start and to stop.
var shared struct {
	sync.Mutex
	docker *Docker
}

// StartDocker gives the test a container engine. It starts at first use and serves every test of
// the process, so a test names its containers as nobody else does, and asks for no list of all.
func StartDocker(t testing.TB) *Docker {
	t.Helper()
	Need(t, "docker")
	shared.Lock()
	defer shared.Unlock()
	if shared.docker == nil {
		d, err := startDocker()
		if err != nil {
			t.Fatal(err)
		}
		shared.docker = d
	}
	return shared.docker
}

func startDocker() (*Docker, error) {
	root, err := areaDir()
	if err != nil {
		return nil, err
	}
	return startEngine(&Docker{dir: filepath.Join(root, "docker")})
}

// startEngine starts an engine in its folder, with an image of busybox.
func startEngine(d *Docker) (_ *Docker, err error) {
	if err := os.MkdirAll(d.dir, 0o711); err != nil {
		return nil, err
	}
	socket := filepath.Join(d.dir, "s")
	d.Host = "unix://" + socket
	d.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
	d.config = "{}"
	if err := d.launch(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	busybox, err := Program("busybox")
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	if err := d.load(BusyboxImage, map[string][]byte{"bin/busybox": content, "bin/sh": content}); err != nil {
		return nil, err
	}
	return d, nil
}

// stopSharedDocker ends the engine of this process, if there is one, and all that it ran.
func stopSharedDocker() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.docker == nil {
		return nil
	}
	d := shared.docker
	shared.docker = nil
	return d.stop()
}

func (d *Docker) stop() error {
	d.proc.stop(syscall.SIGTERM, dockerStopPatience)
	d.client.CloseIdleConnections()
	killArea(d.dir)
	if err := unmountBelow(d.dir); err != nil {
		return err
	}
	removeControlGroups(controlGroup(filepath.Dir(d.dir)))
	return os.RemoveAll(d.dir)
}

// Import makes an image of that tag from files: path inside -> content. All are executable.
func (d *Docker) Import(t testing.TB, tag string, files map[string][]byte) {
	t.Helper()
	if err := d.load(tag, files); err != nil {
		t.Fatal(err)
	}
}

func (d *Docker) load(tag string, files map[string][]byte) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range files {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	query := url.Values{"fromSrc": {"-"}, "repo": {tag}}
	return d.call(http.MethodPost, "/images/create?"+query.Encode(), &archive, nil)
}

// Run starts a container and returns its id; it is removed with the test.
func (d *Docker) Run(t testing.TB, c Container) string {
	t.Helper()
	id := d.Create(t, c)
	if err := d.call(http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		t.Fatal(err)
	}
	return id
}

// Create makes a container that does not run yet.
func (d *Docker) Create(t testing.TB, c Container) string {
	t.Helper()
	if c.Image == "" {
		c.Image = BusyboxImage
	}
	spec, err := json.Marshal(map[string]any{
		"Image": c.Image, "Cmd": c.Command, "Env": c.Env,
		"HostConfig": d.hostConfig(c),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/containers/create"
	if c.Name != "" {
		path += "?" + url.Values{"name": {c.Name}}.Encode()
	}
	var made struct{ ID string }
	if err := d.call(http.MethodPost, path, bytes.NewReader(spec), &made); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.remove(made.ID); err != nil {
			t.Errorf("remove the test's container: %v", err)
		}
	})
	return made.ID
}

// remove ends and removes a container, which may be paused, or gone already.
func (d *Docker) remove(id string) error {
	switch s, err := d.inspect(id); {
	case err != nil || s.Pid == 0:
	case d.podman && s.Paused: // it does not find it thawed
		_ = d.call(http.MethodPost, "/containers/"+id+"/unpause", nil, nil)
	default:
		thaw(s.Pid)
	}
	err := d.call(http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) {
		return nil
	}
	_ = d.call(http.MethodPost, "/containers/"+id+"/unpause", nil, nil)
	return d.call(http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
}

// State tells how a container, by name or id, is.
func (d *Docker) State(t testing.TB, id string) ContainerState {
	t.Helper()
	s, err := d.inspect(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *Docker) inspect(id string) (ContainerState, error) {
	var got struct{ State ContainerState }
	err := d.call(http.MethodGet, "/containers/"+id+"/json", nil, &got)
	return got.State, err
}

// Output is all that a container, by name or id, has printed to its standard output.
func (d *Docker) Output(t testing.TB, id string) []byte {
	t.Helper()
	var raw bytes.Buffer
	if err := d.call(http.MethodGet, "/containers/"+id+"/logs?stdout=1", nil, &raw); err != nil {
		t.Fatal(err)
	}
	// Without a terminal the log is framed: a byte for the stream,
	// three zeros, the length, the bytes.
	var out []byte
	for b := raw.Bytes(); len(b) >= 8; {
		n := int(b[4])<<24 | int(b[5])<<16 | int(b[6])<<8 | int(b[7])
		n = min(n, len(b)-8)
		out = append(out, b[8:8+n]...)
		b = b[8+n:]
	}
	return out
}

// Wait waits until a container, by name or id, has ended.
func (d *Docker) Wait(t testing.TB, id string) {
	t.Helper()
	if err := d.call(http.MethodPost, "/containers/"+id+"/wait", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// statusError is an answer of the engine other than 2xx and 304.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

func isStatus(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == code
}

// call sends one request; into takes the answer: nil, a
// *bytes.Buffer for its bytes, or a place for its JSON.
func (d *Docker) call(method, path string, body io.Reader, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), dockerCallPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("docker: %s %s: %w", method, path, err)
	}
	if res.StatusCode >= 300 && res.StatusCode != http.StatusNotModified {
		return &statusError{res.StatusCode, fmt.Sprintf("docker: %s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(answer))}
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *bytes.Buffer:
		into.Write(answer)
		return nil
	default:
		return json.Unmarshal(answer, into)
	}
}
