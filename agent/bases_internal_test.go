package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// TestCompareWithBase: a standing base tells the changes; a base that is missing, of another
// volume, or made by another provider is refused, and the backup goes on without it.
func TestCompareWithBase(t *testing.T) {
	testbed.Need(t, "btrfs")
	at := testbed.Btrfs(t)
	provider, err := snapshot.ByName(snapshot.NameBtrfs)
	if err != nil {
		t.Fatal(err)
	}
	view := func(volume, name string) *snapshot.Snapshot {
		t.Helper()
		dir := filepath.Join(at, volume)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := provider.Create(t.Context(), snapshot.Request{Volume: dir, Host: "h", Job: name, Name: "data"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	base, other, now := view("volume", "one"), view("other", "two"), view("volume", "three")
	source := job.Source{Volume: "data", Root: now.Root, Ref: model.Ref(now.Ref), Base: &model.Base{Ref: model.Ref(base.Ref)}}
	changes, err := compare(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	if changes.Inodes() == 0 {
		t.Error("a new file is no change")
	}
	if err := changes.Close(); err != nil {
		t.Error(err)
	}
	foreign := base.Ref
	foreign.Provider = snapshot.NameReflink
	if err := provider.Remove(t.Context(), base.Ref); err != nil {
		t.Fatal(err)
	}
	for what, ref := range map[string]snapshot.Ref{"missing": base.Ref, "of another volume": other.Ref, "of another provider": foreign} {
		source.Base = &model.Base{Ref: model.Ref(ref)}
		if _, err := compare(t.Context(), source); !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
