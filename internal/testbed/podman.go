package testbed

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// StartPodman gives the test an engine of its own that speaks docker's language and is not docker:
// podman's service. It has no daemon that starts containers again, and containers outlive it.
func StartPodman(t testing.TB) *Docker {
	t.Helper()
	Need(t, "root", "podman", "runc", "busybox")
	root, err := areaDir()
	if err != nil {
		t.Fatal(err)
	}
	// Podman takes no path of more than 50 characters for its run folder.
	d, err := startEngine(&Docker{dir: filepath.Join(root, fmt.Sprint("p", podmen.Add(1))), podman: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Errorf("stop podman: %v", err)
		}
	})
	return d
}

// podmen counts the Podman engines of this process.
var podmen atomic.Int32

func (d *Docker) launchPodman() error {
	program, err := Program("podman")
	if err != nil {
		return err
	}
	d.proc, err = start(filepath.Join(d.dir, "log"), program, nil,
		"--root", filepath.Join(d.dir, "data"), "--runroot", filepath.Join(d.dir, "r"), "--tmpdir", filepath.Join(d.dir, "t"),
		"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs", "--runtime", "runc",
		"system", "service", "--time=0", d.Host)
	if err != nil {
		return err
	}
	return d.answers()
}

// hostConfig is the engine's configuration of the host's part of a container.
func (d *Docker) hostConfig(c Container) map[string]any {
	config := map[string]any{"Binds": c.Binds, "NetworkMode": "none"}
	if c.Restart != "" {
		config["RestartPolicy"] = map[string]any{"Name": c.Restart}
	}
	if d.podman {
		config["CgroupParent"] = "/" + controlGroup(area.dir)
		// Its own defaults are more than a process without CAP_SYS_RESOURCE can give.
		config["Ulimits"] = []map[string]any{{"Name": "nofile", "Soft": 1024, "Hard": 4096}, {"Name": "nproc", "Soft": 4096, "Hard": 4096}}
	}
	return config
}
