package agent_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/api"
	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

// forgets runs an agent that backs an instance up and releases it. Then the journal and the mark of
// the volume are lost, so that the host knows nothing about the content of the volume.
func (h *host) forgets(id string) {
	h.t.Helper()
	h.start()
	h.backup("acme", "forgotten-"+id, id)
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", id) != nil })
	h.eventually("the job is over", func() bool {
		jobs, err := h.operator().Jobs(h.t.Context(), api.JobFilter{Active: true})
		return err == nil && len(jobs) == 0
	})
	h.stop()
	must(h.t, os.Remove(h.in("state/journal.db")))
	_, volume, _ := strings.Cut(h.cfg, "- id: "+id+"\n")
	_, volume, _ = strings.Cut(volume, "path: ")
	volume, _, _ = strings.Cut(volume, ",")
	must(h.t, origin.Remove(volume))
}

// forgetEvents has the control plane forget its events.
func (h *host) forgetEvents() {
	h.plane.mu.Lock()
	defer h.plane.mu.Unlock()
	h.plane.events = nil
}

// prepared commands a restore, and returns its report.
func (h *host) prepared(id string) map[string]any {
	h.t.Helper()
	h.forgetEvents()
	if a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", "prepare-"+id, `{"instance_ids":["`+id+`"]}`); a.Code != "0" {
		h.t.Fatalf("prepare: %+v", a)
	}
	return h.restored(id)
}

// restored waits for the report of a restore that ended well.
func (h *host) restored(id string) map[string]any {
	h.t.Helper()
	h.eventually("the restore is reported", func() bool {
		return h.plane.took("holdfast.restore.completed", id) != nil || h.plane.took("holdfast.restore.failed", id) != nil
	})
	e := h.plane.took("holdfast.restore.completed", id)
	if e == nil {
		h.t.Fatalf("the restore failed: %s", h.plane.took("holdfast.restore.failed", id).Data)
	}
	var data map[string]any
	must(h.t, json.Unmarshal(e.Data, &data))
	return data
}

// file returns the content of the one file of a volume.
func (h *host) file(volume string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(volume, "data", "file"))
	must(h.t, err)
	return string(b)
}

// TestReplacedIsKept: content that a restore replaces, and that may be in no backup, is
// reported and lies aside, over a restart too, until it is put back or removed. A put-back
// wants the instance to be stopped, and the content that it replaces is kept in turn.
func TestReplacedIsKept(t *testing.T) {
	for kind, place := range map[string]func(testing.TB) string{
		"folder": func(t testing.TB) string { return testbed.Dir(t) }, "ext4": testbed.Ext4, "xfs": testbed.Xfs, "btrfs": testbed.Btrfs,
	} {
		t.Run(kind, func(t *testing.T) {
			if kind != "folder" {
				testbed.Need(t, "root", kind)
			}
			h, mount := newHost(t), place(t)
			volume := filepath.Join(mount, "volume")
			must(t, os.CopyFS(volume, os.DirFS(h.in("volumes/phone-1"))))
			h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1)
			h.forgets("phone-1")
			must(t, os.WriteFile(filepath.Join(volume, "data", "file"), []byte("bytes that no backup has"), 0o640))
			must(t, os.Symlink("/etc", filepath.Join(volume, "link")))
			h.start()

			data := h.prepared("phone-1")
			replaced, _ := data["replaced"].(map[string]any)
			if replaced == nil || replaced["files"] != 1.0 || replaced["bytes"] != 24.0 || replaced["kept"] != true || replaced["newest_mtime"] == nil || replaced["known_backup"] != nil {
				t.Errorf("the report says %v", data)
			}
			if h.file(volume) != "what phone-1 holds" {
				t.Errorf("the volume holds %q", h.file(volume))
			}
			h.stop()
			h.start()
			kept, err := h.operator().Kept(t.Context())
			if err != nil || len(kept) != 1 || kept[0].InstanceID != "phone-1" || kept[0].Files != 1 || kept[0].Left < 71*3600 || len(kept[0].Volumes) != 1 || kept[0].Error != "" {
				t.Fatalf("kept: %+v, %v", kept, err)
			}
			aside := kept[0].Volumes[0].Path
			if filepath.Dir(aside) != mount || !strings.HasPrefix(filepath.Base(aside), ".holdfast-kept-"+kept[0].JobID+"-") || h.file(aside) != "bytes that no backup has" {
				t.Errorf("kept at %s: %q", aside, h.file(aside))
			}
			h.metrics("holdfast_kept_restores 1", "holdfast_kept_bytes 24")

			// While the instance runs nothing is exchanged.
			h.write("phone-1.state", "running\n", 0o600)
			h.forgetEvents()
			_, err = h.operator().PutBack(t.Context(), "phone-1", "")
			must(t, err)
			h.eventually("it failed", func() bool { return h.plane.took("holdfast.restore.failed", "phone-1") != nil })
			if e := h.plane.took("holdfast.restore.failed", "phone-1"); !strings.Contains(string(e.Data), "stop it") || h.file(volume) != "what phone-1 holds" {
				t.Errorf("while it runs: %s; the volume holds %q", e.Data, h.file(volume))
			}

			h.write("phone-1.state", "stopped\n", 0o600)
			h.forgetEvents()
			_, err = h.operator().PutBack(t.Context(), "phone-1", kept[0].JobID)
			must(t, err)
			data = h.restored("phone-1")
			if data["put_back"] != kept[0].JobID || h.file(volume) != "bytes that no backup has" {
				t.Errorf("put back: %v; the volume holds %q", data, h.file(volume))
			}
			again, err := h.operator().Kept(t.Context())
			if err != nil || len(again) != 1 || again[0].JobID == kept[0].JobID || h.file(again[0].Volumes[0].Path) != "what phone-1 holds" {
				t.Fatalf("kept: %+v, %v", again, err)
			}
			if _, err := os.Lstat(aside); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", aside, err)
			}

			must(t, h.operator().RemoveKept(t.Context(), "phone-1", ""))
			h.eventually("the control plane is told", func() bool {
				e := h.plane.took("holdfast.instance.decided", "phone-1")
				return e != nil && strings.Contains(string(e.Data), `"decision":"kept_removed"`) && strings.Contains(string(e.Data), again[0].JobID)
			})
			if left, err := filepath.Glob(filepath.Join(mount, ".holdfast-*")); err != nil || len(left) > 0 && kind != "btrfs" {
				t.Errorf("left: %q, %v", left, err)
			}
			if left, err := filepath.Glob(filepath.Join(mount, ".holdfast-kept-*")); err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
			var e *api.Error
			if err := h.operator().RemoveKept(t.Context(), "phone-1", ""); !errors.As(err, &e) || e.Code != api.CodeParameter {
				t.Errorf("removed twice: %v", err)
			}
			if h.file(volume) != "bytes that no backup has" {
				t.Errorf("the volume holds %q", h.file(volume))
			}
		})
	}
}

// TestKeptOfAnotherDisk: kept content is known by folder and identity, so that
// neither another tree under its name nor another disk in its place is removed.
func TestKeptOfAnotherDisk(t *testing.T) {
	testbed.Need(t, "root")
	h, mount := newHost(t), testbed.Dir(t)
	volume := filepath.Join(mount, "volume")
	must(t, os.CopyFS(volume, os.DirFS(h.in("volumes/phone-1"))))
	h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1)
	h.forgets("phone-1")
	h.start()
	h.prepared("phone-1")
	kept, err := h.operator().Kept(t.Context())
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept: %+v, %v", kept, err)
	}
	aside := kept[0].Volumes[0].Path

	over := testbed.Tmpfs(t, "size=1m,mode=0755")
	must(t, unix.Mount(over, mount, "", unix.MS_BIND, ""))
	unmount := func() { _ = unix.Unmount(mount, unix.MNT_DETACH) }
	t.Cleanup(unmount)
	if err := h.operator().RemoveKept(t.Context(), "phone-1", ""); err == nil || !strings.Contains(err.Error(), "is not the one") {
		t.Errorf("with another disk there: %v", err)
	}
	unmount()
	must(t, errors.Join(os.Rename(aside, aside+".mine"), os.Mkdir(aside, 0o700), os.WriteFile(filepath.Join(aside, "file"), []byte("another tree"), 0o600)))
	must(t, h.operator().RemoveKept(t.Context(), "phone-1", ""))
	for _, path := range []string{filepath.Join(aside, "file"), filepath.Join(aside+".mine", "data", "file")} {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("it was removed: %v", err)
		}
	}
}

// TestPrepareNeedsRoom: a restore that would take more than prepare.min_free leaves is refused
// before a byte is written, names the needed and the free space, and leaves the volume as it was.
func TestPrepareNeedsRoom(t *testing.T) {
	testbed.Need(t, "root")
	h, mount := newHost(t), testbed.Tmpfs(t, "size=16m")
	volume := filepath.Join(mount, "volume")
	must(t, errors.Join(os.Mkdir(volume, 0o755), os.WriteFile(filepath.Join(volume, "file"), make([]byte, 6<<20), 0o600)))
	h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1) + "prepare: {min_free: 8MiB}\n"
	h.forgets("phone-1")
	h.start()
	if a := h.call(http.MethodPost, "/v1/instances/prepare", "acme", "prepare-1", `{"instance_ids":["phone-1"]}`); a.Code != "0" {
		t.Fatalf("prepare: %+v", a)
	}
	h.eventually("it failed", func() bool { return h.plane.took("holdfast.restore.failed", "phone-1") != nil })
	e := h.plane.took("holdfast.restore.failed", "phone-1")
	for _, want := range []string{`not enough room for volume \"data\", of 6.0 MiB in 2 entries`, "has 10.0 MiB", "8.0 MiB", "are to stay free", "lower prepare.min_free", "prepare.in_place_order"} {
		if !strings.Contains(string(e.Data), want) {
			t.Errorf("no %q in %s", want, e.Data)
		}
	}
	if left, err := filepath.Glob(filepath.Join(mount, ".holdfast-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if info, err := os.Stat(filepath.Join(volume, "file")); err != nil || info.Size() != 6<<20 || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("the volume: %v, %v", info, err)
	}
}
