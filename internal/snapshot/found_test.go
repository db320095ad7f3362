package snapshot_test

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// Snapshots of another host's id, and a snapshot that was made writable, are found with
// the known facts about them, and are removed on request. Foreign objects are not listed.
func TestFindAndDrop(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	for _, volume := range []string{subvolume(t, filepath.Join(btrfs, "vol")), image(t, filepath.Join(xfs, "disk"), 1<<20)} {
		for _, host := range []string{"old-id", "new-id"} {
			_, _, err := snapshot.Take(t.Context(), snapshot.Request{Volume: volume, Host: host, Job: "j", Name: "v"}, nil)
			must(t, err)
		}
		dir := filepath.Join(filepath.Dir(volume), snapshot.SnapshotFolder)
		folder(t, filepath.Join(dir, "hf.h.plain.v"))
		must(t, os.WriteFile(filepath.Join(dir, "hf.h.file.v"), nil, 0o600))
		writable := filepath.Join(dir, "hf.old-id.j.v")
		if volume == filepath.Join(btrfs, "vol") {
			command(t, "btrfs", "property", "set", "-f", writable, "ro", "false")
		}
		found, err := snapshot.Find(t.Context(), snapshot.Request{Volume: volume})
		if err != nil || len(found) != 2 || found[0].Host != "new-id" || found[1].Host != "old-id" {
			t.Fatalf("%+v, %v", found, err)
		}
		for _, f := range found {
			if f.Job != "j" || f.Name != "v" || f.Made.IsZero() || f.Writable != (f.Path == writable && f.Provider == snapshot.NameBtrfs) {
				t.Errorf("found %+v", f)
			}
			must(t, snapshot.Drop(t.Context(), f))
			if _, err := os.Lstat(f.Path); !os.IsNotExist(err) {
				t.Errorf("%s is still there: %v", f.Path, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("what is not ours: %v, %v", left, err)
		}
	}
}
