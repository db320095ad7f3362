package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/obs/obstest"
)

// waitsForRelease brings phone-1 to the point where its stored
// backup waits for the control plane's release.
func (h *host) waitsForRelease() {
	h.t.Helper()
	h.cfg = strings.Replace(h.cfg, "instances:", "release: control-plane\nlimits: {verified_within: 0s, drain_timeout: 5s}\ninstances:", 1)
	h.cfg = strings.Replace(h.cfg, "limits: {drain_timeout: 5s}\n", "", 1)
	h.start()
	h.backup("acme", "backup-1", "phone-1")
	h.eventually("held with a backup", func() bool { return h.plane.took("holdfast.backup.completed", "phone-1") != nil })
}

// inStore names the one folder or file of the store that matches.
func (h *host) inStore(pattern string) string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.in("store"), pattern))
	if err != nil || len(found) == 0 {
		h.t.Fatalf("in the store nothing matches %s: %v", pattern, err)
	}
	return found[0]
}

// TestBackupGone: an explicit release powers nothing down while the store lacks any part of the
// backup; once all is back, it does. A resume lets the instance run, and the job has failed.
func TestBackupGone(t *testing.T) {
	for what, pattern := range map[string]string{
		"header": "*/vault.json", "manifest": "*/backups/phone-1/*", "pack": "*/packs/*/*", "vault": "[0-9a-f]*",
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			h.waitsForRelease()
			path := h.inStore(pattern)
			if err := os.Rename(path, h.in("aside")); err != nil {
				t.Fatal(err)
			}
			h.call("POST", "/v1/agent/instances/phone-1/release", "acme", "release-1", "")
			if why := h.told("holdfast.backup.gone", "phone-1"); !strings.Contains(why, "the store has lost a part of the backup") || !strings.Contains(why, "resume lets it run") {
				t.Errorf("the reason is %q", why)
			}
			if s := h.state("phone-1"); s != "frozen" {
				t.Errorf("the instance is %s", s)
			}
			if what == "pack" {
				h.call("POST", "/v1/agent/instances/phone-1/resume", "acme", "resume-1", "")
				if why, _ := h.ended("holdfast.backup.failed")["reason"].(string); !strings.Contains(why, "as was asked") {
					t.Errorf("after the resume the reason is %q", why)
				}
				if s := h.state("phone-1"); s != "running" {
					t.Errorf("after the resume the instance is %s", s)
				}
				h.backup("acme", "backup-2", "phone-1") // the pack is stored anew
				h.told("holdfast.backup.completed", "phone-1")
				return
			}
			if err := os.Rename(h.in("aside"), path); err != nil {
				t.Fatal(err)
			}
			h.call("POST", "/v1/agent/instances/phone-1/release", "acme", "release-2", "")
			h.ended("holdfast.instance.released")
		})
	}
}

// TestStoreAwayAtRelease: while the store's folder is another, as of a disk
// that is not mounted, the release waits; nothing is made in the folder,
// also not after a restart, and the release goes on when the store is back.
func TestStoreAwayAtRelease(t *testing.T) {
	h := newHost(t)
	h.waitsForRelease()
	away := func(from, to string) {
		t.Helper()
		if err := os.Rename(h.in(from), h.in(to)); err != nil {
			t.Fatal(err)
		}
	}
	away("store", "elsewhere")
	if err := os.Mkdir(h.in("store"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.call("POST", "/v1/agent/instances/phone-1/release", "acme", "release-1", "")
	const waits = "look whether the backup is still in the store"
	h.eventually("it waits for the store", func() bool { return strings.Contains(h.logs.String(), waits) })
	h.stop()
	h.start()
	h.backup("acme", "backup-2", "phone-2")
	if why := h.told("holdfast.backup.failed", "phone-2"); !strings.Contains(why, "is no store of Holdfast") {
		t.Errorf("a backup while the store is away fails with %q", why)
	}
	if left, err := os.ReadDir(h.in("store")); err != nil || len(left) > 0 {
		t.Errorf("in the mount point there are %v, %v", left, err)
	}
	if s := h.state("phone-1"); s != "frozen" {
		t.Errorf("the instance is %s", s)
	}
	if err := os.Remove(h.in("store")); err != nil {
		t.Fatal(err)
	}
	away("elsewhere", "store")
	h.ended("holdfast.instance.released")
}

// TestNoVaultOverAKnownOne: where the journal knows a backup in the
// vault, an empty store gets no new vault, whatever made it empty.
func TestNoVaultOverAKnownOne(t *testing.T) {
	h := newHost(t)
	h.start()
	h.backup("acme", "backup-1", "phone-1")
	h.ended("holdfast.instance.released")
	h.stop()
	if err := os.Rename(h.in("store"), h.in("first")); err != nil {
		t.Fatal(err)
	}
	obstest.Folder(t, h.in("store"))
	h.start()
	h.backup("acme", "backup-2", "phone-2")
	if why := h.told("holdfast.backup.failed", "phone-2"); !strings.Contains(why, "this host has made backups in that vault") ||
		!strings.Contains(why, "see that the disk of the store is mounted") {
		t.Errorf("the backup fails with %q", why)
	}
	left, err := filepath.Glob(h.in("store/[0-9a-z]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("in the store there are %v, %v", left, err)
	}
	h.backup("other", "backup-3", "phone-3") // a tenant of whom nothing is known
	h.told("holdfast.backup.completed", "phone-3")
}

// told waits for a report of the instance, and returns the reason in it.
func (h *host) told(kind, id string) string {
	h.t.Helper()
	h.eventually(kind+" of "+id, func() bool { return h.plane.took(kind, id) != nil })
	var data struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(h.plane.took(kind, id).Data, &data); err != nil {
		h.t.Fatal(err)
	}
	return data.Reason
}
