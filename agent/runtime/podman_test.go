package runtime_test

import (
	"errors"
	"testing"

	"holdfast/agent/model"
	"holdfast/agent/runtime"
	"holdfast/agent/runtime/runtimetest"
	"holdfast/internal/testbed"
)

// Podman's service speaks docker's language, with other words and fewer calls.
func TestPodmanConforms(t *testing.T) {
	d := testbed.StartPodman(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		s, _ := dockerSubject(t, d, "")
		s.Reboot = nil
		return s
	})
}

// Podman before its version 5 can't be told to keep a container
// down, which is not that there is no such container.
func TestPodmanKeepsDownOrSaysThatItCannot(t *testing.T) {
	d := testbed.StartPodman(t)
	id := d.Run(t, testbed.Container{Name: "phone-always", Command: []string{"/bin/sh", "-c", "while :; do busybox sleep 1; done"}, Restart: "always"})
	i, err := runtime.New(runtime.Config{Kind: runtime.KindDocker, Docker: runtime.DockerConfig{Host: d.Host, Container: "phone-always"}})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	do(t, "freeze", i.Freeze)
	held, err := i.State(t.Context())
	if err != nil || held.ID != id {
		t.Fatalf("%+v, %v", held, err)
	}
	if err := i.PowerDown(t.Context(), &held); err != nil {
		t.Errorf("power down: %v", err)
	}
	if err := i.KeepDown(t.Context()); err != nil && (!errors.Is(err, runtime.ErrUnsupported) || errors.Is(err, runtime.ErrMissing)) {
		t.Errorf("keep down: %v", err)
	}
	if now, err := i.State(t.Context()); err != nil || now.State != model.IsStopped || !now.Killed || now.Run != held.Run {
		t.Errorf("it looked like %+v, and looks like %+v, %v", held, now, err)
	}
}
