package tree_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestNumbersOfNestedSubvolumes: entries of a nested subvolume may have the same inode numbers as
// entries of the root. They are marked, and a name that vanishes there is told without a number.
func TestNumbersOfNestedSubvolumes(t *testing.T) {
	testbed.Need(t, "root", "btrfs")
	dir := testbed.Filesystem(t, "btrfs", 256<<20)
	inside := filepath.Join(dir, "z")
	if out, err := exec.Command("btrfs", "subvolume", "create", inside).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range []string{filepath.Join(dir, "a"), filepath.Join(inside, "f"), filepath.Join(inside, "g")} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := tree.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	nested, vanished := map[string]bool{}, map[string]uint64{}
	err = root.Walk(t.Context(), tree.WalkOptions{Vanished: func(path string, ino uint64) { vanished[path] = ino }}, func(e *tree.Entry) error {
		nested[e.Path] = e.Nested
		if e.Path == "z" || e.Path == "z/f" {
			_ = os.Remove(filepath.Join(inside, "g"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if nested["a"] || !nested["z"] || !nested["z/f"] {
		t.Errorf("nested: %v", nested)
	}
	if ino, ok := vanished["z/g"]; !ok || ino != 0 {
		t.Errorf("z/g vanished: %v, with the number %d", ok, ino)
	}
}
