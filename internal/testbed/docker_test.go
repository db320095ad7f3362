package testbed_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

func TestDockerRunsContainers(t *testing.T) {
	d := testbed.StartDocker(t)
	if again := testbed.StartDocker(t); again != d {
		t.Error("a second engine was started")
	}
	volume := testbed.Dir(t)
	id := d.Run(t, testbed.Container{
		Name:    "testbed-writer",
		Binds:   []string{volume + ":/data"},
		Command: []string{"/bin/busybox", "sh", "-c", "echo made > /data/file; echo said; exec /bin/busybox sleep 1000"},
	})
	waitFor(t, "the container's output", func() bool { return string(d.Output(t, id)) == "said\n" })
	if got, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(got) != "made\n" {
		t.Errorf("the volume's file holds %q, %v", got, err)
	}
	if s := d.State(t, "testbed-writer"); !s.Running || s.Paused || s.Pid == 0 {
		t.Errorf("state %+v", s)
	}
}

func TestDockerRemovesPausedContainer(t *testing.T) {
	d := testbed.StartDocker(t)
	var id string
	t.Run("paused", func(t *testing.T) {
		id = d.Run(t, testbed.Container{Command: []string{"/bin/busybox", "sleep", "1000"}})
		post(t, d, "/containers/"+id+"/pause")
		if s := d.State(t, id); !s.Paused {
			t.Fatalf("state %+v", s)
		}
	})
	waitFor(t, "the end of the container's shim", func() bool { return !running(id) })
}

func TestDockerWait(t *testing.T) {
	d := testbed.StartDocker(t)
	id := d.Run(t, testbed.Container{Command: []string{"/bin/busybox", "sh", "-c", "exit 3"}})
	d.Wait(t, id)
	if s := d.State(t, id); s.Running || s.ExitCode != 3 {
		t.Errorf("state %+v", s)
	}
}

// post sends a request over the engine's socket, as a client of its own.
func post(t *testing.T, d *testbed.Docker, path string) {
	t.Helper()
	res, err := unixClient(strings.TrimPrefix(d.Host, "unix://")).Post("http://docker"+path, "", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode >= 300 {
		t.Fatalf("%s: %s", path, res.Status)
	}
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
}
