package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// addVolume adds an instance that nobody runs, whose volume is configured with these lines.
func (h *host) addVolume(id, volume, lines string) {
	fmt.Fprintf(&h.instances, `
  - id: %s
    tenant: "%s"
    runtime: {none: {}}
    volumes: [{name: data, path: %s%s}]
`, id, tenant, volume, lines)
}

// TestAcceptedLosses: a loss fails the job, unless the configuration accepts losses
// at its path or excludes the path. Then the backup is complete, the receipt and
// the log tell of accepted losses, and another host prepares the instance from it.
func TestAcceptedLosses(t *testing.T) {
	testbed.Need(t, "root")
	base := t.TempDir()
	makeVolume := func(id string) (volume string) {
		volume = filepath.Join(base, id)
		for _, name := range []string{"file", "mnt/share/x", "home/user/.gvfs/x", "cache/CACHEDIR.TAG", "cache/big"} {
			must(t, os.MkdirAll(filepath.Join(volume, filepath.Dir(name)), 0o755))
			must(t, os.WriteFile(filepath.Join(volume, name), []byte("Signature: 8a477f597d28d172789f06886806bc55"), 0o600))
		}
		testbed.StrangersFUSE(t, filepath.Join(volume, "mnt/share"), 65534)
		testbed.StrangersFUSE(t, filepath.Join(volume, "home/user/.gvfs"), 65534)
		return volume
	}
	p := startPlane(t)
	store := filepath.Join(t.TempDir(), "store")
	obstest.Folder(t, store)
	h := newHost(t, p, "file://"+store)
	h.addVolume("refuses", makeVolume("refuses"), ", accept_losses: [/mnt/]")
	h.addVolume("phone-1", makeVolume("phone-1"), `, accept_losses: [/mnt/, "home/*/.gvfs"], exclude_caches: true`)
	h.addVolume("excludes", makeVolume("excludes"), `, exclude: [/mnt/share, .gvfs/]`)
	h.start("")

	status, why := h.ended(h.backup("request-1", "refuses"))
	if status == 2 || !strings.Contains(why, "would not hold all of the storage") {
		t.Errorf("status %d, reason %q", status, why)
	}
	// The tenant does not learn paths and settings of the host; its operator does.
	var log []byte
	var err error
	eventually(t, "the log says what is lost, and how that is accepted", func() bool {
		log, err = os.ReadFile(h.log.Name())
		must(t, err)
		return strings.Contains(string(log), "home/user/.gvfs") && strings.Contains(string(log), "accept_losses")
	})
	for id, accepted := range map[string]int{"phone-1": 2, "excludes": 0} {
		if status, why := h.ended(h.backup("request-"+id, id)); status != 2 {
			t.Fatalf("%s: %s", id, why)
		}
		found := false
		for _, r := range p.got(completed) {
			if data(t, r.Event)["instance_id"] != id {
				continue
			}
			found = true
			if s := h.receipt(r.Event); s.LossesAccepted != accepted {
				t.Errorf("%s: the receipt says %d accepted losses, want %d", id, s.LossesAccepted, accepted)
			}
			if got, _ := data(t, r.Event)["losses_accepted"].(float64); int(got) != accepted {
				t.Errorf("%s: the report says %v accepted losses, want %d", id, got, accepted)
			}
		}
		if !found {
			t.Errorf("%s: no report", id)
		}
	}
	log, err = os.ReadFile(h.log.Name())
	must(t, err)
	if n := strings.Count(string(log), "accepted loss"); n != 2 {
		t.Errorf("the log names %d accepted losses, want 2", n)
	}
	if list := h.cli("list", "--vault", tenant); strings.Contains(list, "refuses") || strings.Contains(list, "incomplete") || strings.Count(list, " complete") != 2 {
		t.Errorf("the vault has\n%s", list)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	b := second(t, h)
	volume := filepath.Join(t.TempDir(), "phone-1")
	b.addVolume("phone-1", volume, "")
	b.start("")
	a, raw := b.prepare("prepare-1", "phone-1")
	if a.Code != "0" {
		t.Fatal(raw)
	}
	if status, why := b.ended(a.Data.TaskID); status != 2 {
		t.Fatal(why)
	}
	for name, want := range map[string]bool{"file": true, "mnt": true, "cache/CACHEDIR.TAG": true, "cache/big": false} {
		if _, err := os.Stat(filepath.Join(volume, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
