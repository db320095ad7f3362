package tree_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestSettleOfASnapshot: a read-only snapshot says when it was made.
func TestSettleOfASnapshot(t *testing.T) {
	testbed.Need(t, "root", "mkfs.btrfs", "btrfs")
	fs := testbed.Btrfs(t)
	before := time.Now().Add(-time.Second)
	for _, args := range [][]string{{"create", filepath.Join(fs, "v")}, {"snapshot", "-r", filepath.Join(fs, "v"), filepath.Join(fs, "s")}} {
		if out, err := exec.Command("btrfs", append([]string{"subvolume"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("btrfs %v: %v: %s", args, err, out)
		}
	}
	after := time.Now().Add(time.Second)
	time.Sleep(1500 * time.Millisecond)
	for name, still := range map[string]bool{"s": true, "v": false} {
		r, err := tree.OpenRoot(filepath.Join(fs, name))
		if err != nil {
			t.Fatal(err)
		}
		at, err := r.Settle()
		if err != nil || r.Still() != still || at.Before(before) || at.Before(after) != still {
			t.Errorf("%s: %s, %v; still %v", name, at, err, r.Still())
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
