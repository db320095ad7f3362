package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// TestInvariantNothingLost: storage that a snapshot and a walk
// leave out keeps the instance from being powered down.
func TestInvariantNothingLost(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	volume := filepath.Join(testbed.Btrfs(t), "phone", "data")
	must(t, os.MkdirAll(volume, 0o755))
	nested := filepath.Join(volume, "nested")
	mounted(t, nested)
	must(t, os.WriteFile(filepath.Join(nested, "precious"), []byte("data"), 0o600))
	container := startWriter(t, docker, volume)
	p := startPlane(t)
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	h := newHost(t, p, "file://"+store)
	h.addDocker("phone-1", docker.Host, container, volume)
	h.start("")
	h.backup("request-1", "phone-1")
	eventually(t, "the failure is reported", func() bool { return len(p.got(failed))+len(p.got(released)) == 1 })
	if len(p.got(failed)) != 1 {
		t.Fatal("the instance was released on a backup that lacks a mounted folder")
	}
	if why := string(p.got(failed)[0].Data); !strings.Contains(why, "nested") {
		t.Errorf("the report does not name the place: %s", why)
	}
	if list := h.cli("list", "--vault", tenant); strings.Contains(list, "phone-1") {
		t.Errorf("what lacks a mounted folder is a backup:\n%s", list)
	}
	if st := docker.State(t, container); !st.Running || st.Paused {
		t.Errorf("the container is %+v", st)
	}
}

// mounted mounts a file system at a new folder until the test ends.
func mounted(t *testing.T, folder string) {
	t.Helper()
	must(t, os.MkdirAll(folder, 0o755))
	must(t, unix.Mount("none", folder, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(folder, unix.MNT_DETACH)) })
}

// TestOwnSubvolumesAreBackedUp: subvolumes that a user made inside of the volume, also within
// each other, keep no instance from being backed up and released, and their content comes back.
func TestOwnSubvolumesAreBackedUp(t *testing.T) {
	needs(t)
	docker := testbed.StartDocker(t)
	volume := filepath.Join(testbed.Btrfs(t), "phone", "data")
	must(t, os.MkdirAll(volume, 0o755))
	for _, path := range []string{"nested", "nested/inner"} {
		if out, err := exec.Command("btrfs", "subvolume", "create", filepath.Join(volume, path)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		must(t, os.WriteFile(filepath.Join(volume, path, "precious"), []byte("in "+path), 0o600))
	}
	container := startWriter(t, docker, volume)
	p := startPlane(t)
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	h := newHost(t, p, "file://"+store)
	h.addDocker("phone-1", docker.Host, container, volume)
	h.start("")
	h.backup("request-1", "phone-1")
	eventually(t, "the job ends", func() bool { return len(p.got(failed))+len(p.got(released)) == 1 })
	if len(p.got(failed)) > 0 {
		t.Fatalf("it failed: %s", p.got(failed)[0].Data)
	}
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(volume), ".holdfast-snapshots")); !os.IsNotExist(err) {
		eventually(t, "the snapshots are removed", func() bool {
			_, err := os.Stat(filepath.Join(filepath.Dir(volume), ".holdfast-snapshots"))
			return os.IsNotExist(err)
		})
		t.Logf("snapshots: %v", left)
	}
	dest := filepath.Join(t.TempDir(), "back")
	h.cli("restore", "--vault", tenant, "--instance", "phone-1", dest)
	for _, path := range []string{"nested", "nested/inner"} {
		if got, err := os.ReadFile(filepath.Join(dest, path, "precious")); string(got) != "in "+path {
			t.Errorf("%s came back with %q, %v", path, got, err)
		}
	}
}
