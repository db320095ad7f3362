package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/hostid"
	"holdfast/internal/origin"
	"holdfast/internal/testbed"
)

// TestMarkGoesToTheBackedUpFolder: a mark is put on the folder that was backed up, at the path that
// the journal has, whatever the configuration says by now and whatever lies at the path.
func TestMarkGoesToTheBackedUpFolder(t *testing.T) {
	testbed.Need(t, "root")
	dir := testbed.Dir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"was", "now", "device"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	configured := func(path string) *instance {
		in, err := newInstance(&config.Instance{ID: "phone-1", Tenant: "acme", Volumes: []config.Volume{{Name: "data", Path: path}}}, "host-1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.runtime.Close() })
		return in
	}
	before := configured(at("was"))
	a := &Agent{
		log: slog.New(slog.DiscardHandler), cfg: &config.Config{HostID: "host-1"}, identity: hostid.Identity{ID: "h"},
		instances: map[string]*instance{"phone-1": configured(at("now"))},
	}
	t.Cleanup(func() { _ = a.recalled.close() })
	seen, err := see(t.Context(), at("was"))
	if err != nil {
		t.Fatal(err)
	}
	j := &model.Job{Instance: "phone-1", Kept: before.keep(), Result: &model.Result{BackupID: "b1", Roots: map[string]model.Root{"data": seen.root}}}
	content := model.Content{Backup: "b1", Seq: 1, Tenant: "acme", Vault: "v"}
	marked, err := restores{a}.Mark(t.Context(), j, content)
	if err != nil || !marked["data"] {
		t.Errorf("marked %v, %v", marked, err)
	}
	if m, err := origin.Read(at("was")); err != nil || m.Backup != "b1" {
		t.Errorf("the backed-up folder has the mark %+v, %v", m, err)
	}
	if m, err := origin.Read(at("now")); !errors.Is(err, origin.ErrNoMark) {
		t.Errorf("the folder of the present configuration has the mark %+v, %v", m, err)
	}

	// Another folder lies at the path by now.
	if err := errors.Join(os.Rename(at("was"), at("away")), os.Rename(at("device"), at("was"))); err != nil {
		t.Fatal(err)
	}
	content.Backup, content.Seq = "b2", 2
	if marked, err = (restores{a}).Mark(t.Context(), j, content); !errors.Is(err, errOtherFolder) || marked["data"] {
		t.Errorf("another folder is marked %v, %v", marked, err)
	}
	if m, err := origin.Read(at("was")); !errors.Is(err, origin.ErrNoMark) {
		t.Errorf("another folder has the mark %+v, %v", m, err)
	}
}
