package testbed

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Restarts, reboots and other events of engines and their containers.

// launch starts the engine over the content of its folder, and waits until it answers.
func (d *Docker) launch() error {
	if d.podman {
		return d.launchPodman()
	}
	program, err := Program("dockerd")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte(d.config), 0o600); err != nil {
		return err
	}
	d.proc, err = start(filepath.Join(d.dir, "log"), program, nil,
		"--host", d.Host, "--config-file", filepath.Join(d.dir, "daemon.json"), "--group", "root",
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "x"),
		"--pidfile", filepath.Join(d.dir, "pid"), "--cgroup-parent", "/"+controlGroup(filepath.Dir(d.dir)),
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--shutdown-timeout", "3",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--userland-proxy=false")
	if err != nil {
		return err
	}
	return d.answers()
}

// answers waits until the engine that was just started does, and ends it if it does not.
func (d *Docker) answers() error {
	err := d.proc.await(dockerStartPatience, func() error { return d.call(http.MethodGet, "/_ping", nil, nil) })
	if err != nil {
		d.proc.stop(syscall.SIGKILL, 0)
	}
	return err
}

// Restart ends the engine in an orderly way and starts it again. By
// default that ends its containers.
func (d *Docker) Restart(t testing.TB) {
	t.Helper()
	d.proc.stop(syscall.SIGTERM, dockerStopPatience)
	d.client.CloseIdleConnections()
	if err := d.launch(); err != nil {
		t.Fatal(err)
	}
}

// KeepContainers makes an engine whose containers outlive its restarts, until the test ends.
func (d *Docker) KeepContainers(t testing.TB) {
	t.Helper()
	set := func(config string) {
		d.config = config
		d.Restart(t)
	}
	set(`{"live-restore": true}`)
	t.Cleanup(func() { set("{}") })
}

// Reboot has the same effect on the engine as a restart of the host: the engine and all
// processes that it has started are killed, the data that it keeps for the time of one
// boot is lost, and it starts again.
func (d *Docker) Reboot(t testing.TB) {
	t.Helper()
	d.proc.stop(syscall.SIGKILL, 0)
	d.client.CloseIdleConnections()
	killArea(d.dir)
	err := unmountBelow(d.dir)
	removeControlGroups(controlGroup(filepath.Dir(d.dir)))
	for _, volatile := range []string{"x", "pid", "s"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.dir, volatile)))
	}
	if err == nil {
		err = d.launch()
	}
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // containers that it is to start again are on their way
}

// Act makes the engine's call of that name for a container, by name or id: "pause",
// "unpause", "start", "stop?t=1", "rename?name=other".
func (d *Docker) Act(t testing.TB, id, call string) {
	t.Helper()
	if err := d.call(http.MethodPost, "/containers/"+id+"/"+call, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// Remove ends and removes a container, which may be paused.
func (d *Docker) Remove(t testing.TB, id string) {
	t.Helper()
	if err := d.remove(id); err != nil {
		t.Fatal(err)
	}
}
