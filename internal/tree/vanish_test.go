package tree_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestSnapshotVanishesWhileRead: a btrfs snapshot that is removed before or
// while its tree is walked never looks like a whole tree with less in it.
func TestSnapshotVanishesWhileRead(t *testing.T) {
	testbed.Need(t, "btrfs")
	mount := testbed.Btrfs(t)
	volume := filepath.Join(mount, "volume")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run("btrfs", "subvolume", "create", volume)
	var entries int
	for d := range 5 {
		for f := range 30 {
			path := filepath.Join(volume, fmt.Sprint("d", d), fmt.Sprint("sub", f%3), fmt.Sprint("f", f))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(path), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		entries += 1 + 3 + 30
	}
	entries++ // the root
	for at := range entries + 1 {
		snap := filepath.Join(mount, fmt.Sprint("snap", at))
		run("btrfs", "subvolume", "snapshot", "-r", volume, snap)
		root, err := tree.OpenRoot(snap)
		if err != nil {
			t.Fatal(err)
		}
		remove := func() { run("btrfs", "subvolume", "delete", snap) }
		if at == 0 {
			remove()
		}
		seen, lost := 0, false
		err = root.Walk(t.Context(), tree.WalkOptions{Warn: func(w tree.Warning) { lost = lost || w.Lost }}, func(e *tree.Entry) error {
			if seen++; seen == at {
				remove()
			}
			if e.Kind != tree.File {
				return nil
			}
			f, err := root.Open(e, nil)
			if err != nil {
				lost = true // the engine takes it so
				return nil
			}
			return f.Close()
		})
		if err == nil && !lost && seen < entries {
			t.Errorf("removed at entry %d: %d of %d were seen, and nothing was said", at, seen, entries)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
}
