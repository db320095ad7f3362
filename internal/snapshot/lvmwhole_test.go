package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
)

// A writer makes, fills, renames and removes files without a sync.
// Every snapshot is a whole file system, read without the journal.
func lvmWhole(t *testing.T) {
	for _, c := range []struct{ name, kind, device, want string }{
		{"thin ext4", "ext4", lvmThin(t, "w-ext4", "64m"), snapshot.NameLVMThin},
		{"thin xfs", "xfs", lvmThin(t, "w-xfs", "320m"), snapshot.NameLVMThin},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := lvmMounted(t, c.kind, c.device)
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { done <- lvmChurn(ctx, root) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			for i := range 2 {
				// The instance is not held: the view must hold the data that was
				// written before the call, while writes go on.
				sure := filepath.Join(root, fmt.Sprintf("sure-%d", i))
				if err := os.WriteFile(sure, bytes.Repeat([]byte{byte('a' + i)}, 100_000), 0o600); err != nil {
					t.Fatal(err)
				}
				_, snap := lvmTake(t, c.want, root, fmt.Sprintf("job-%d", i))
				got, err := os.ReadFile(filepath.Join(snap.Root, filepath.Base(sure)))
				if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte('a' + i)}, 100_000)) {
					t.Errorf("a file that was written before holds %d bytes, %v", len(got), err)
				}
				files, err := filepath.Glob(snap.Root + "/churn/*")
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					content, err := os.ReadFile(f)
					if err != nil || len(content) > 0 && !bytes.Equal(content, bytes.Repeat(content[:1], len(content))) {
						t.Errorf("%s: %d bytes, %v", f, len(content), err)
					}
				}
				device := lvmMountedDevice(t, snap.Ref.Path)
				if c.kind == "ext4" {
					// complains where the file system is not as a clean one
					command(t, "e2fsck", "-fn", device)
				} else {
					lvmEqualAfterReplay(t, snap.Root, device)
				}
			}
		})
	}
}

func lvmMountedDevice(t *testing.T, point string) string {
	t.Helper()
	for line := range strings.Lines(string(lvmContent(t, "/proc/self/mounts"))) {
		if f := strings.Fields(line); f[1] == point {
			return f[0]
		}
	}
	t.Fatalf("nothing is mounted at %s", point)
	return ""
}

// lvmEqualAfterReplay mounts a copy of the device of an xfs with its journal replayed:
// the copy holds the same content as the view without a replay.
func lvmEqualAfterReplay(t *testing.T, root, device string) {
	t.Helper()
	lvm(t, "lvcreate", "--snapshot", "--setactivationskip", "n", "--activate", "y", "--permission", "rw", "--name", "replay", device)
	defer lvm(t, "lvremove", "--yes", lvmGroup+"/replay")
	point := t.TempDir()
	if err := unix.Mount("/dev/"+lvmGroup+"/replay", point, "xfs", 0, "nouuid"); err != nil {
		t.Fatal(err)
	}
	replayed, seen := lvmTree(t, point), lvmTree(t, root)
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	if replayed != seen {
		t.Errorf("without the journal it holds:\n%s\nwith it:\n%s", seen, replayed)
	}
	command(t, "xfs_repair", "-n", "/dev/"+lvmGroup+"/replay")
}

// lvmTree lists the files of a tree with their size and a sum of their content.
func lvmTree(t *testing.T, root string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fmt.Fprint(&s, rel)
		if !d.IsDir() {
			content := lvmContent(t, path)
			fmt.Fprintf(&s, " %d %08x", len(content), crc32.ChecksumIEEE(content))
		}
		fmt.Fprintln(&s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func lvmChurn(ctx context.Context, root string) error {
	dir := filepath.Join(root, "churn")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Millisecond) // leaves something of the emulated processors to the others
		name := filepath.Join(dir, strconv.Itoa(rnd.IntN(200)))
		err := os.WriteFile(name, bytes.Repeat([]byte{byte(n)}, rnd.IntN(20_000)), 0o600)
		switch rnd.IntN(4) {
		case 0:
			err = errors.Join(err, os.Remove(name))
		case 1:
			err = errors.Join(err, os.Rename(name, filepath.Join(dir, strconv.Itoa(rnd.IntN(200)))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
