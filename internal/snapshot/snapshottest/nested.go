package snapshottest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/snapshot"
)

// holdsNested makes folders in the volume that are subvolumes where the file system has
// subvolumes, as any user can, also in one another. A view holds their content, does
// not change with them, and its removal removes all snapshots that were made for it.
func holdsNested(t *testing.T, s Subject) {
	if s.Image {
		return
	}
	add := func(names ...string) {
		path := filepath.Join(append([]string{s.Volume}, names...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := snapshot.MakeFolder(path); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(path, "file"), "then")
	}
	add("outer")
	add("outer", "a", "inner")
	add("deep", "er", "odd \xff\nname")
	add("beside")
	paths := []string{"outer/file", "outer/a/inner/file", "deep/er/odd \xff\nname/file", "beside/file"}
	snap := create(t, s, "nested")
	read := func(when string, want ...string) {
		t.Helper()
		for _, path := range paths {
			if got, err := os.ReadFile(inView(t, snap, path)); !slices.Contains(want, string(got)) {
				t.Errorf("%s, %q holds %q, %v", when, path, got, err)
			}
		}
	}
	read("after it was made", "then")
	stands(t, s, snap.Ref, true)
	if s.Provider.InPlace() {
		return
	}
	for _, path := range paths {
		write(t, filepath.Join(s.Volume, path), "now")
	}
	if gone, err := snapshot.DestroyFolder(filepath.Join(s.Volume, "beside")); err != nil || !gone {
		if err := os.RemoveAll(filepath.Join(s.Volume, "beside")); err != nil {
			t.Fatal(err)
		}
	}
	read("after the volume changed", "then")
	inside, err := snapshot.Nested(snap.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Provider.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	for path, at := range inside {
		if _, err := os.Lstat(at); !os.IsNotExist(err) {
			t.Errorf("the snapshot of %q was left: %v", path, err)
		}
	}
	if beside := names(t, filepath.Dir(s.Volume)); slices.Contains(beside, snapshot.SnapshotFolder) {
		t.Errorf("the snapshot folder was left: %q", beside)
	}
	stands(t, s, snap.Ref, false)
}

// inView gives where the content of a path of the volume is in a view.
func inView(t *testing.T, snap *snapshot.Snapshot, path string) string {
	t.Helper()
	inside, err := snapshot.Nested(snap.Ref)
	if err != nil {
		t.Fatal(err)
	}
	best, at := "", filepath.Join(snap.Root, path)
	for stub, folder := range inside {
		if rest, ok := strings.CutPrefix(path, stub+"/"); ok && len(stub) > len(best) {
			best, at = stub, filepath.Join(folder, rest)
		}
	}
	return at
}

// churnsNested makes and removes subvolumes while views are made. Each view holds the
// content of each subvolume that stays.
func churnsNested(t *testing.T, s Subject) {
	if s.Image || s.Provider.InPlace() {
		return
	}
	stays := filepath.Join(s.Volume, "stays")
	if err := snapshot.MakeFolder(stays); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(stays, "file"), "content")
	for i := range s.rounds(10) {
		come := filepath.Join(s.Volume, fmt.Sprint("comes-", i))
		if err := snapshot.MakeFolder(come); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(come, "file"), "content")
		snap := create(t, s, fmt.Sprint("churn-", i))
		for _, path := range []string{"stays/file", filepath.Base(come) + "/file"} {
			if got, err := os.ReadFile(inView(t, snap, path)); string(got) != "content" {
				t.Errorf("round %d: %s holds %q, %v", i, path, got, err)
			}
		}
		if gone, err := snapshot.DestroyFolder(come); err != nil || !gone {
			if err := os.RemoveAll(come); err != nil {
				t.Fatal(err)
			}
		}
	}
}
