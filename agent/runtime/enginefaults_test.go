package runtime_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/internal/testbed"
)

// proxied is a driver of a container whose engine is behind a proxy
// that may answer in the engine's place. The fault is called with each
// request; when it returns false the request goes on to the engine.
func proxied(t *testing.T, d *testbed.Docker, id string, fault func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool) runtime.Instance {
	t.Helper()
	engineSocket := strings.TrimPrefix(d.Host, "unix://")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", engineSocket)
	}}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	pass.Transport = transport
	socket := filepath.Join(testbed.Dir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r, pass) {
			pass.ServeHTTP(w, r)
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
		transport.CloseIdleConnections()
	})
	i, err := runtime.New(runtime.Config{Kind: runtime.KindDocker, Docker: runtime.DockerConfig{Host: "unix://" + socket, Container: id, Timeout: 10 * time.Second, StopTimeout: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

func isCall(r *http.Request, verb string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+verb)
}

// lost carries the request out and gives no answer.
func lost(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
	var answer discarded
	pass.ServeHTTP(&answer, r)
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		c.Close()
	}
	return true
}

// discarded is an answer that nobody gets.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (*discarded) Write(p []byte) (int, error) { return len(p), nil }
func (*discarded) WriteHeader(int)             {}

// Engines that speak docker's language need not have all its calls:
// podman before version 5 has no update. That is no missing container.
func TestUnknownCallIsNoMissingContainer(t *testing.T) {
	d := testbed.StartDocker(t)
	s, id := dockerSubject(t, d, "always")
	var unknown atomic.Value
	unknown.Store("update")
	i := proxied(t, d, id, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !isCall(r, unknown.Load().(string)) {
			return false
		}
		http.Error(w, "404 page not found", http.StatusNotFound)
		return true
	})
	do(t, "freeze", i.Freeze)
	held, err := i.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := i.PowerDown(t.Context(), &held); err != nil {
		t.Errorf("power down: %v", err)
	}
	s.Expect(t, model.IsStopped)
	if err := i.KeepDown(t.Context()); !errors.Is(err, runtime.ErrUnsupported) || errors.Is(err, runtime.ErrMissing) {
		t.Errorf("keep down: %v", err)
	}
	unknown.Store("json") // the call that looks
	if got, err := i.State(t.Context()); err == nil || errors.Is(err, runtime.ErrMissing) || got.State != model.IsUnknown {
		t.Errorf("an engine that can't look says %+v, %v", got, err)
	}
	if err := i.Thaw(t.Context()); err == nil || errors.Is(err, runtime.ErrMissing) {
		t.Errorf("thaw by an engine that can't look: %v", err)
	}
}

// The engine may carry out a request and go away before it answers. The next look shows
// that the power-down was this agent's doing.
func TestPowerDownWhoseAnswerIsLost(t *testing.T) {
	d := testbed.StartDocker(t)
	s, id := dockerSubject(t, d, "always")
	var away, kills atomic.Int32
	i := proxied(t, d, id, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
		switch {
		case away.Load() > 0:
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
			return true
		case isCall(r, "kill"):
			kills.Add(1)
			away.Store(1)
			return lost(w, r, pass)
		}
		return false
	})
	s.Hurry(t)
	s.Writes(t)
	do(t, "freeze", i.Freeze)
	held, err := i.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(onGroups2) != "" && !strings.HasSuffix(held.Work, " us") { // the unit of version 2
		t.Errorf("this process was to see control groups of version 2, and the container looks like %+v", held)
	}
	size := s.Size(t)
	if err := i.PowerDown(t.Context(), &held); !errors.Is(err, model.ErrBegun) || !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("power down: %v", err)
	}
	away.Store(0)
	now, err := i.State(t.Context())
	if err != nil || now.State != model.IsStopped || now.ID != held.ID || now.Run != held.Run || !now.Killed {
		t.Errorf("it looked like %+v, and looks like %+v, %v", held, now, err)
	}
	if err := i.PowerDown(t.Context(), &held); !errors.Is(err, runtime.ErrChanged) || errors.Is(err, model.ErrBegun) {
		t.Errorf("power down again: %v", err)
	}
	do(t, "keep down", i.KeepDown)
	res, err := engine(t, d).ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil || res.Container.HostConfig.RestartPolicy.Name != container.RestartPolicyUnlessStopped {
		t.Errorf("its restart policy is %+v, %v", res.Container.HostConfig, err)
	}
	if n := s.Size(t) - size; n != 0 || kills.Load() != 1 {
		t.Errorf("%d bytes were written after the freeze, %d kills", n, kills.Load())
	}
}

// A power-down that did not reach the engine has changed nothing, and the driver
// notices a change of the instance before the next try.
func TestPowerDownThatReachedNobody(t *testing.T) {
	d := testbed.StartDocker(t)
	s, id := dockerSubject(t, d, "")
	var broken atomic.Bool
	i := proxied(t, d, id, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !broken.Load() {
			return false
		}
		http.Error(w, `{"message":"the engine is out of order"}`, http.StatusInternalServerError)
		return true
	})
	do(t, "freeze", i.Freeze)
	held, err := i.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if err := i.PowerDown(t.Context(), &held); err == nil || errors.Is(err, model.ErrBegun) {
		t.Errorf("power down: %v", err)
	}
	broken.Store(false)
	do(t, "thaw by somebody else", s.Thaw)
	s.Writes(t)
	do(t, "freeze by somebody else", s.Freeze)
	if err := i.PowerDown(t.Context(), &held); !errors.Is(err, runtime.ErrChanged) {
		t.Errorf("power down of one that ran: %v", err)
	}
	s.Expect(t, model.IsFrozen)
}

// The end of a container tells whether it was killed, as a
// power-down of a frozen one does, or ended in its own way.
func TestDockerTellsHowAContainerEnded(t *testing.T) {
	d := testbed.StartDocker(t)
	id := d.Run(t, testbed.Container{Command: []string{"/bin/sh", "-c", `trap "exit 3" TERM; while :; do sleep 0.05; done`}})
	i, err := runtime.New(runtime.Config{Kind: runtime.KindDocker, Docker: runtime.DockerConfig{Host: d.Host, Container: id, StopTimeout: 30 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	for _, frozen := range []bool{true, false} {
		if frozen {
			do(t, "freeze", i.Freeze)
		} else {
			time.Sleep(200 * time.Millisecond) // it gets to its trap
		}
		do(t, "power down", down(i))
		if got, err := i.State(t.Context()); err != nil || got.Killed != frozen {
			t.Errorf("frozen before: %v; it looks like %+v, %v", frozen, got, err)
		}
		do(t, "start", i.Start)
	}
}
