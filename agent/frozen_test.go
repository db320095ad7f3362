package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

// TestOwnFilesAreNeverFrozen: a job is refused that would freeze the file system with the agent's
// store or state on it, also where those lie in an image there. The agent and the instance go on.
func TestOwnFilesAreNeverFrozen(t *testing.T) {
	testbed.Need(t, "ext4")
	for name, own := range map[string]func(h *host, mount string) (was, is string){
		"store": func(h *host, mount string) (string, string) { return h.in("store"), filepath.Join(mount, "store") },
		"state": func(h *host, mount string) (string, string) { return h.in("state"), filepath.Join(mount, "state") },
		"state in an image": func(h *host, mount string) (string, string) {
			image := filepath.Join(mount, "state.img")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 32<<20); err != nil {
				t.Fatal(err)
			}
			return h.in("state"), snapshottest.MountImage(h.t, image)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, mount := newHost(t), testbed.Filesystem(t, "ext4", 256<<20)
			was, is := own(h, mount)
			h.frozenVolume(filepath.Join(mount, "disk"))
			h.cfg = strings.ReplaceAll(h.cfg, was, is)
			if err := os.MkdirAll(is, 0o700); err != nil {
				t.Fatal(err)
			}
			if name == "store" {
				obstest.Folder(t, is)
			}
			h.start()
			h.backup("acme", "backup-1", "phone-1")
			data := h.ended("holdfast.backup.failed")
			if reason, _ := data["reason"].(string); !strings.Contains(reason, "must stay writable") || !strings.Contains(reason, is) {
				t.Errorf("the reason is %q", reason)
			}
			if got := h.state("phone-1"); got != "running" {
				t.Errorf("the instance is %s", got)
			}
		})
	}
}

// frozenVolume gives phone-1 an image for a volume that is read while its file system is frozen.
func (h *host) frozenVolume(image string) {
	h.t.Helper()
	h.imageAt(image, 1<<20)
	h.cfg = strings.Replace(h.cfg, "path: "+image+"}", "path: "+image+", snapshot: fsfreeze}", 1)
}

// TestStoredIsThawed: a file system is frozen for no longer than it
// is read. Whoever writes to it does not wait for the control plane.
func TestStoredIsThawed(t *testing.T) {
	testbed.Need(t, "ext4")
	h, mount := newHost(t), testbed.Filesystem(t, "ext4", 64<<20)
	h.frozenVolume(filepath.Join(mount, "disk"))
	asked := make(chan struct{}, 100)
	h.plane.answer(func(e model.Event) int {
		if e.Type != "holdfast.backup.completed" {
			return http.StatusNoContent
		}
		asked <- struct{}{}
		return http.StatusServiceUnavailable
	})
	h.start()
	h.backup("acme", "backup-1", "phone-1")
	<-asked
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(mount, "neighbour"), []byte("x"), 0o600) }()
	select {
	case err := <-written:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the file system is frozen while the report waits")
	}
	if got := h.state("phone-1"); got != "frozen" {
		t.Errorf("the instance is %s", got)
	}
	h.plane.answer(nil)
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
}
