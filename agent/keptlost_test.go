package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/internal/testbed"
)

// keepsOn has an agent replace content that no backup has, on a file system, and loses the journal
// then. It returns the volume.
func (h *host) keepsOn(mount string) (volume string) {
	h.t.Helper()
	volume = filepath.Join(mount, "volume")
	must(h.t, os.CopyFS(volume, os.DirFS(h.in("volumes/phone-1"))))
	h.cfg = strings.Replace(h.cfg, "path: "+h.in("volumes/phone-1"), "path: "+volume, 1)
	h.forgets("phone-1")
	must(h.t, os.WriteFile(filepath.Join(volume, "data", "file"), []byte("bytes that no backup has"), 0o640))
	h.start()
	h.prepared("phone-1")
	h.eventually("the replaced content has its name", func() bool {
		kept, err := filepath.Glob(filepath.Join(mount, ".holdfast-kept-*"))
		return err == nil && len(kept) == 1
	})
	h.stop()
	must(h.t, os.Remove(h.in("state/journal.db")))
	return volume
}

func (h *host) keptList() []api.KeptContent {
	h.t.Helper()
	list, err := h.operator().Kept(h.t.Context())
	must(h.t, err)
	return list
}

// TestKeptSurvivesTheJournal: kept content of which a lost journal does not know is adopted, with
// its tenant and the backup from which it came, is kept for its whole time from then on, and can be
// put back. Another instance, or a tree of which nothing tells whose it is, changes nothing.
func TestKeptSurvivesTheJournal(t *testing.T) {
	for kind, place := range map[string]func(testing.TB) string{"ext4": testbed.Ext4, "xfs": testbed.Xfs, "btrfs": testbed.Btrfs} {
		t.Run(kind, func(t *testing.T) {
			testbed.Need(t, "root", kind)
			h, mount := newHost(t), place(t)
			volume := h.keepsOn(mount)
			unknown := filepath.Join(mount, ".holdfast-kept-0123456789abcdef0123-data")
			must(t, errors.Join(os.Mkdir(unknown, 0o700), os.WriteFile(filepath.Join(unknown, "file"), []byte("of nobody"), 0o600)))
			h.start()
			var list []api.KeptContent
			h.eventually("the kept content is adopted", func() bool { list = h.keptList(); return len(list) == 1 })
			k := list[0]
			if k.InstanceID != "phone-1" || k.Adopted.IsZero() || k.Partial || k.Files != 1 || k.Left < 71*3600 || len(k.Volumes) != 1 || k.Volumes[0].From != volume {
				t.Errorf("adopted as %+v", k)
			}
			h.eventually("the control plane is told", func() bool {
				e := h.plane.took("holdfast.instance.kept", "phone-1")
				return e != nil && strings.Contains(string(e.Data), `"replaced":{"files":1,"bytes":24`) && strings.Contains(string(e.Data), k.JobID)
			})
			if h.file(k.Volumes[0].Path) != "bytes that no backup has" {
				t.Errorf("kept at %s: %q", k.Volumes[0].Path, h.file(k.Volumes[0].Path))
			}
			h.eventually("the tree of nobody is told", func() bool {
				info, err := h.operator().Info(t.Context())
				must(t, err)
				trouble := info.Trouble("kept_stays")
				return trouble != nil && strings.Contains(trouble.Error, "nothing tells whose content it is")
			})
			h.forgetEvents()
			_, err := h.operator().PutBack(t.Context(), "phone-1", k.JobID)
			must(t, err)
			h.restored("phone-1")
			if h.file(volume) != "bytes that no backup has" {
				t.Errorf("the volume holds %q", h.file(volume))
			}
			if _, err := os.Stat(filepath.Join(unknown, "file")); err != nil {
				t.Errorf("the tree of nobody: %v", err)
			}
		})
	}
}

// TestKeptOfAnotherTenant: adopted content keeps its tenant. Where the configuration has given the
// instance to another tenant meanwhile, the content is listed, and goes to nobody's volume.
func TestKeptOfAnotherTenant(t *testing.T) {
	testbed.Need(t, "root", "ext4")
	h, mount := newHost(t), testbed.Ext4(t)
	volume := h.keepsOn(mount)
	must(t, errors.Join(os.RemoveAll(volume), os.MkdirAll(filepath.Join(volume, "data"), 0o755)))
	h.cfg = strings.Replace(h.cfg, "- id: phone-1\n    tenant: acme", "- id: phone-1\n    tenant: other", 1)
	if !strings.Contains(h.cfg, "tenant: other") {
		t.Fatalf("the configuration is %s", h.cfg)
	}
	h.start()
	h.eventually("the kept content is adopted", func() bool { return len(h.keptList()) == 1 })
	h.forgetEvents()
	if _, err := h.operator().PutBack(t.Context(), "phone-1", ""); err == nil {
		h.eventually("it failed", func() bool { return h.plane.took("holdfast.restore.failed", "phone-1") != nil })
	}
	if entries, err := os.ReadDir(filepath.Join(volume, "data")); err != nil || len(entries) > 0 {
		t.Errorf("the volume of the other tenant holds %v, %v", entries, err)
	}
	if left := h.keptList(); len(left) != 1 || h.file(left[0].Volumes[0].Path) != "bytes that no backup has" {
		t.Errorf("kept: %+v", left)
	}
}
