package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// TestInvariantNothingLost: storage that a snapshot and a walk leave out keeps the instance from being
// powered down.
func TestInvariantNothingLost(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	volume := filepath.Join(testbed.Btrfs(t), "phone", "data")
	must(t, os.MkdirAll(volume, 0o755))
	nested := filepath.Join(volume, "nested")
	if out, err := exec.Command("btrfs", "subvolume", "create", nested).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(nested, "precious"), []byte("data"), 0o600))
	container := startWriter(t, docker, volume)
	p := startPlane(t)
	store := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(store, 0o700))
	h := newHost(t, p, "file://"+store)
	h.addDocker("phone-1", docker.Host, container, volume)
	h.start("")
	h.backup("request-1", "phone-1")
	eventually(t, "the failure is reported", func() bool { return len(p.got(failed))+len(p.got(released)) == 1 })
	if len(p.got(failed)) != 1 {
		t.Fatal("the instance was released on a backup that lacks a subvolume")
	}
	if why := string(p.got(failed)[0].Data); !strings.Contains(why, "nested") {
		t.Errorf("the report does not name the place: %s", why)
	}
	if list := h.cli("list", "--vault", tenant); strings.Contains(list, "phone-1") {
		t.Errorf("what lacks a subvolume is a backup:\n%s", list)
	}
	if st := docker.State(t, container); !st.Running || st.Paused {
		t.Errorf("the container is %+v", st)
	}
}
