package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// bases lists the snapshots beside the volume of phone-1.
func (h *host) bases(beside string) []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(beside, ".holdfast-snapshots", "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// volumeAt gives phone-1 its volume at a path, with snapshots
// as the storage there allows, and that mode of hold.
func (h *host) volumeAt(path, hold string) {
	h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1")+", snapshot: freeze}]", "path: "+path+"}]\n    hold: "+hold, 1)
}

// volumeOn gives phone-1 its volume on another file system: a folder with one
// large file, or an image. The path of that file or image is returned too.
func (h *host) volumeOn(mount string, image bool, content []byte) (volume, large string) {
	h.t.Helper()
	volume = filepath.Join(mount, "data")
	large = volume
	if !image {
		large = filepath.Join(volume, "large")
		if err := os.Mkdir(volume, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.WriteFile(large, content, 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.volumeAt(volume, "frozen")
	return volume, large
}

// ended waits for an event of phone-1, and returns its data. Those before are forgotten.
func (h *host) ended(kind string) map[string]any {
	h.t.Helper()
	h.eventually(kind, func() bool { return h.plane.took(kind, "phone-1") != nil })
	e := h.plane.took(kind, "phone-1")
	var data map[string]any
	if err := json.Unmarshal(e.Data, &data); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the job is over", func() bool {
		a := h.call(http.MethodGet, "/v1/agent/jobs?instance=phone-1&active=true", "", "r", "")
		return string(a.Data) == `{"jobs":[]}`
	})
	h.plane.mu.Lock()
	defer h.plane.mu.Unlock()
	h.plane.events = nil
	return data
}

// TestRestoreLeavesABase: the first backup after a restore reads only content that was
// written since, also of one large file and of an image, and is exact. The base goes with
// the release, outlives the agent, and where the configuration wants none there is none.
func TestRestoreLeavesABase(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	for name, c := range map[string]struct {
		place func(testing.TB) string
		image bool
	}{
		"tree on btrfs":  {testbed.Btrfs, false},
		"image on btrfs": {testbed.Btrfs, true},
		"image on xfs":   {testbed.Xfs, true},
	} {
		t.Run(name, func(t *testing.T) {
			const size, piece = 24 << 20, 64 << 10
			h, mount := newHost(t), c.place(t)
			rnd := rand.NewChaCha8([32]byte{7})
			content := make([]byte, size)
			_, _ = rnd.Read(content)
			volume, large := h.volumeOn(mount, c.image, content)
			h.start()
			release := func(request string) map[string]any {
				t.Helper()
				h.write("phone-1.state", "running\n", 0o600)
				h.backup("acme", request, "phone-1")
				h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
				data := h.ended("holdfast.backup.completed")
				// The journal forgets a base in the transaction that ends
				// the job; the snapshot goes after that.
				h.eventually("no base is left after the release", func() bool { return len(h.bases(mount)) == 0 })
				if err := os.RemoveAll(volume); err != nil {
					t.Fatal(err)
				}
				return data
			}
			prepare := func(request string) {
				t.Helper()
				h.call(http.MethodPost, "/v1/instances/prepare", "acme", request, `{"instance_ids":["phone-1"]}`)
				h.ended("holdfast.restore.completed")
				got, err := os.ReadFile(large)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("restored something else (%v)", err)
				}
			}
			release("backup-1")
			prepare("prepare-1")
			if left := h.bases(mount); len(left) != 1 {
				t.Fatalf("after the restore: %v", left)
			}
			h.stop()
			h.start()
			if left := h.bases(mount); len(left) != 1 {
				t.Fatalf("after a restart: %v", left)
			}
			_, _ = rnd.Read(content[size/2 : size/2+piece])
			f, err := os.OpenFile(large, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(content[size/2:size/2+piece], size/2); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			data := release("backup-2")
			read, all := data["bytes_read"].(float64), data["bytes"].(float64)
			if all != size || read < piece || read > size/8 {
				t.Errorf("the backup after the restore read %.0f of %.0f bytes", read, all)
			}
			t.Logf("the backup after the restore read %.0f of %.0f bytes", read, all)
			prepare("prepare-2")

			h.stop()
			h.cfg += "\nbase: {keep: false}\n"
			h.start()
			if left := h.bases(mount); len(left) != 0 {
				t.Errorf("where none is wanted: %v", left)
			}
			if data := release("backup-3"); data["bytes"].(float64) != size {
				t.Errorf("the backup without a base: %v", data)
			}
			prepare("prepare-3")
			if left := h.bases(mount); len(left) != 0 {
				t.Errorf("after a restore where none is wanted: %v", left)
			}
			if strings.Contains(h.logs.String(), "goes on without it") {
				t.Error("a warning")
			}
		})
	}
}

// TestRestoreGoesOnWithoutABase: a base that can't be
// made is reported, and does not fail the restore.
func TestRestoreGoesOnWithoutABase(t *testing.T) {
	testbed.Need(t, "btrfs")
	h, mount := newHost(t), testbed.Btrfs(t)
	volume := filepath.Join(mount, "data")
	h.volumeAt(volume, "frozen")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.backup("acme", "backup-1", "phone-1")
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	h.ended("holdfast.backup.completed")
	// Someone else's folder is in the place where the snapshots go.
	foreign := filepath.Join(mount, ".holdfast-snapshots")
	if err := errors.Join(os.RemoveAll(volume), os.Mkdir(foreign, 0o700), os.Chown(foreign, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	h.call(http.MethodPost, "/v1/instances/prepare", "acme", "prepare-1", `{"instance_ids":["phone-1"]}`)
	h.ended("holdfast.restore.completed")
	if got, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(got) != "content" {
		t.Errorf("restored %q, %v", got, err)
	}
	for _, want := range []string{"goes on without it", "it belongs to user 1000"} {
		if !strings.Contains(h.logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if left := h.bases(mount); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
