package runtime_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/agent/runtime/runtimetest"
	"holdfast/internal/testbed"
)

func engine(t *testing.T, d *testbed.Docker) *client.Client {
	t.Helper()
	c, err := client.New(client.WithHost(d.Host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// twoWriters are two processes that append to their file, beside a third in a session of its own.
var twoWriters = []string{"/bin/sh", "-c", strings.ReplaceAll(`
	busybox setsid sh -c 'while :; do echo s >>/data/c; PAUSE; done' &
	while :; do echo x >>/data/a; PAUSE; done &
	while :; do echo y >>/data/b; PAUSE; done`,
	"PAUSE", "[ -e /data/"+runtimetest.Hurry+" ] || busybox sleep 0.02")}

func dockerSubject(t *testing.T, d *testbed.Docker, policy string) (runtimetest.Subject, string) {
	t.Helper()
	volume, name := t.TempDir(), fmt.Sprintf("phone-%d", phones.Add(1))
	c := testbed.Container{Name: name, Command: twoWriters, Binds: []string{volume + ":/data"}}
	id := d.Run(t, c)
	if policy != "" {
		_, err := engine(t, d).ContainerUpdate(t.Context(), id, client.ContainerUpdateOptions{
			RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyMode(policy)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	again := func() runtime.Instance {
		i, err := runtime.New(runtime.Config{Kind: runtime.KindDocker, Docker: runtime.DockerConfig{Host: d.Host, Container: name, StopTimeout: time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { i.Close() })
		return i
	}
	remove := func() {
		if _, err := engine(t, d).ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	return runtimetest.Subject{
		Instance: again(), Volume: volume, Again: again, Remove: remove,
		Recreate: func() {
			remove()
			d.Run(t, c)
		},
		Rename: func() {
			if _, err := engine(t, d).ContainerRename(t.Context(), id, client.ContainerRenameOptions{NewName: name + "-old"}); err != nil {
				t.Fatal(err)
			}
		},
		RestartEngine: func() { d.Restart(t) },
		Reboot:        func() { d.Reboot(t) },
	}, id
}

// phones counts the containers: a name is not used twice.
var phones atomic.Int64

func TestDockerConforms(t *testing.T) {
	d := testbed.StartDocker(t)
	for _, policy := range []string{"", "always"} {
		t.Run("policy "+policy, func(t *testing.T) {
			runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
				s, _ := dockerSubject(t, d, policy)
				if policy == "" { // restarts and reboots of engines take some time
					s.RestartEngine, s.Reboot = nil, nil
				}
				return s
			})
		})
	}
	t.Run("engine that lets containers live over its restart", func(t *testing.T) {
		d.KeepContainers(t)
		runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
			s, _ := dockerSubject(t, d, "always")
			return s
		}, runtimetest.LawRestart, runtimetest.LawKeptDown)
	})
}

// The test of the test: when the container is only killed, it makes the write that
// downFrozen looks for.
func TestPlainKillLetsAHeldContainerWrite(t *testing.T) {
	d := testbed.StartDocker(t)
	s, id := dockerSubject(t, d, "")
	s.Hurry(t)
	for range 500 { // the first that shows it is enough
		s.Writes(t)
		do(t, "freeze", s.Freeze)
		held := s.Size(t)
		if _, err := engine(t, d).ContainerKill(t.Context(), id, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
			t.Fatal(err)
		}
		if s.Size(t) != held {
			return
		}
		do(t, "start", s.Start)
	}
	t.Error("a plain kill let no byte through in 500 rounds: the writers are too slow to show anything")
}

func TestDockerStaysDown(t *testing.T) {
	d := testbed.StartDocker(t)
	for _, policy := range []string{"no", "always", "unless-stopped", "on-failure"} {
		for _, frozen := range []bool{true, false} {
			s, id := dockerSubject(t, d, policy)
			if frozen {
				do(t, "freeze", s.Freeze)
			}
			do(t, "power down", down(s))
			do(t, "keep down", s.KeepDown)
			// the engine's first pause before a restart is 100 ms
			time.Sleep(300 * time.Millisecond)
			s.Expect(t, model.IsStopped)
			res, err := engine(t, d).ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, want := string(res.Container.HostConfig.RestartPolicy.Name), policy
			if policy == "always" || policy == "on-failure" {
				want = "unless-stopped" // the others come up when the engine restarts
			}
			if got != want {
				t.Errorf("policy %s became %s", policy, got)
			}
		}
	}
}

func TestDockerCrashLoop(t *testing.T) {
	d := testbed.StartDocker(t)
	id := d.Run(t, testbed.Container{Command: []string{"/bin/sh", "-c", "exit 7"}})
	// The engine refuses the change while the container is between two lives.
	var err error
	for range 100 {
		_, err = engine(t, d).ContainerUpdate(t.Context(), id, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: "always"}})
		if err == nil || !strings.Contains(err.Error(), "stopped container") && !strings.Contains(err.Error(), "container not running") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	i, err := runtime.New(runtime.Config{Kind: "docker", Docker: runtime.DockerConfig{Host: d.Host, Container: id}})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	s := runtimetest.Subject{Instance: i}
	do(t, "power down", down(s))
	time.Sleep(300 * time.Millisecond)
	s.Expect(t, model.IsStopped)
	_, err = engine(t, d).ContainerUpdate(t.Context(), id, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: "no"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil && !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("start of one that ends at once: %v", err)
	}
}

func TestDockerEngineAway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	i, err := runtime.New(runtime.Config{Kind: "docker", Docker: runtime.DockerConfig{Host: "unix://" + socket, Container: "phone-1", Timeout: 2 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	state, err := i.State(t.Context())
	if state.State != model.IsUnknown || !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "phone-1") {
		t.Errorf("no socket: %s, %v", state.State, err)
	}
	if err := i.PowerDown(t.Context(), nil); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("power down: %v", err)
	}
	// An engine that takes the call and never answers.
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := i.Freeze(t.Context()); !errors.Is(err, runtime.ErrTimeout) {
		t.Errorf("no answer: %v", err)
	}
}
