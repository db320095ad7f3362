package snapshot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// For every obstacle to a snapshot, there is a view of the volume, by another provider
// or in place, and the reason is told.
func TestTakeAnotherWay(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	quota := testbed.Btrfs(t)
	command(t, "btrfs", "quota", "enable", quota)
	for _, c := range []struct {
		name, root, want string
		image            bool
		block            func(t *testing.T, volume string)
		planned          bool   // the look before it is made finds out
		reason           string // of the kernel, or of the look
	}{
		{"swap file", btrfs, "freeze", false, func(t *testing.T, volume string) { swapOn(t, filepath.Join(volume, "swap")) }, false, "swap file"},
		{"swap file beside an image", btrfs, "reflink", true, func(t *testing.T, volume string) { swapOn(t, volume+".swap") }, false, "swap file"},
		{"swap file in a subvolume inside", btrfs, "freeze", false, func(t *testing.T, volume string) {
			swapOn(t, filepath.Join(subvolume(t, filepath.Join(volume, "inside")), "swap"))
		}, false, "swap file"},
		{"quota", quota, "freeze", false, func(t *testing.T, volume string) {
			command(t, "btrfs", "filesystem", "sync", quota)
			command(t, "btrfs", "qgroup", "limit", "1", filepath.Dir(volume))
		}, false, "quota"},
		{"foreign folder", btrfs, "freeze", false, foreignFolder, true, "belongs to user 1000"},
		{"foreign folder beside an image", xfs, "freeze", true, foreignFolder, true, "belongs to user 1000"},
		{"immutable snapshot folder", btrfs, "freeze", false, func(t *testing.T, volume string) {
			immutable(t, folder(t, filepath.Join(filepath.Dir(volume), snapshot.SnapshotFolder)))
		}, true, "can't be written"},
		{"immutable folder", xfs, "freeze", true, func(t *testing.T, volume string) { immutable(t, filepath.Dir(volume)) }, true, "can't be written"},
		{"a file in the way", btrfs, "freeze", false, func(t *testing.T, volume string) {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(volume), snapshot.SnapshotFolder), nil, 0o600))
		}, true, "no folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			holder := filepath.Join(c.root, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
			if c.root == xfs {
				folder(t, holder)
			} else {
				subvolume(t, holder)
			}
			volume := filepath.Join(holder, "data")
			content := filepath.Join(volume, "file")
			if c.image {
				content = volume
			} else {
				folder(t, volume)
			}
			must(t, os.WriteFile(content, []byte(strings.Repeat("content ", 2000)), 0o600))
			c.block(t, volume)
			var failed []string
			req := snapshot.Request{Volume: volume, Host: "h", Job: "j", Name: "v"}
			_, reason, err := snapshot.Detect(t.Context(), req, "auto")
			must(t, err)
			p, snap, err := snapshot.Take(t.Context(), req, func(of, next snapshot.Provider, why error) {
				failed = append(failed, of.Name()+": "+why.Error())
			})
			if err != nil {
				t.Fatalf("%v, after %q", err, failed)
			}
			defer func() { must(t, p.Remove(t.Context(), snap.Ref)) }()
			if !c.planned {
				reason = strings.Join(failed, "; ")
			}
			if p.Name() != c.want || !strings.Contains(reason, c.reason) || c.planned && len(failed) > 0 {
				t.Errorf("taken by %s; failed: %q; reason: %s", p.Name(), failed, reason)
			}
			at := snap.Image
			if !c.image {
				at = filepath.Join(snap.Root, "file")
			}
			if got, err := os.ReadFile(at); len(got) != 16000 || !strings.HasPrefix(string(got), "content") {
				t.Errorf("the view holds %d bytes, %v", len(got), err)
			}
		})
	}
}

// swapOn makes an active swap file until the test ends.
func swapOn(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	command(t, "chattr", "+C", path)
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	command(t, "mkswap", path)
	command(t, "swapon", path)
	t.Cleanup(func() { command(t, "swapoff", path) })
}

func foreignFolder(t *testing.T, volume string) {
	t.Helper()
	must(t, unix.Chown(folder(t, filepath.Join(filepath.Dir(volume), snapshot.SnapshotFolder)), 1000, 1000))
}

func immutable(t *testing.T, path string) {
	t.Helper()
	command(t, "chattr", "+i", path)
	t.Cleanup(func() { command(t, "chattr", "-i", path) })
}
