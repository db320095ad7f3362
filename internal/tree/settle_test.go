package tree_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// TestSettleShowsWritesThroughMaps: after Settle a write through a shared map shows in the
// time of change, also on a page that was written before; where it would not, Settle fails.
func TestSettleShowsWritesThroughMaps(t *testing.T) {
	for name, mount := range map[string]func(testing.TB) string{
		"btrfs": testbed.Btrfs, "ext4": testbed.Ext4, "xfs": testbed.Xfs, "tmpfs": tmpfs,
	} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t)
			f, err := os.Create(filepath.Join(dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(4096); err != nil {
				t.Fatal(err)
			}
			page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Munmap(page) }() // fails only for a page that is not mapped
			page[0] = 1
			r := openRoot(t, dir)
			_, err = r.Settle()
			if errors.Is(err, tree.ErrSilentChanges) != (name == "tmpfs") || err != nil && name != "tmpfs" {
				t.Fatalf("settle: %v", err)
			}
			before, serr := tree.Restat(f)
			if serr != nil {
				t.Fatal(serr)
			}
			time.Sleep(50 * time.Millisecond) // more than a tick of any kernel
			page[0] = 2
			if after, serr := tree.Restat(f); serr != nil || (after.Ctime == before.Ctime) != (err != nil) {
				t.Errorf("changed at %v, then at %v, though Settle said %v: %v", before.Ctime, after.Ctime, err, serr)
			}
		})
	}
}

func tmpfs(t testing.TB) string { return testbed.Tmpfs(t, "size=16m") }
