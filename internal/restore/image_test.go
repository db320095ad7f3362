package restore_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/image"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// makeImage makes a sparse raw disk with content here and there, some of it zeros.
func makeImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(size))
	random := rand.NewChaCha8([32]byte{5})
	for _, at := range []struct{ off, n int64 }{{0, 4096}, {1<<20 + 4096, 300_000}, {9 << 20, 5 << 20}, {size - 100, 100}} {
		_, err := io.Copy(io.NewOffsetWriter(f, at.off), io.LimitReader(random, at.n))
		must(t, err)
	}
	_, err = f.WriteAt(make([]byte, 3<<20), 20<<20)
	must(t, err)
	must(t, f.Close())
}

// sameBytes compares the first size bytes of two files or devices.
func sameBytes(t *testing.T, a, b string, size int64) {
	t.Helper()
	f, err := os.Open(a)
	must(t, err)
	defer f.Close()
	g, err := os.Open(b)
	must(t, err)
	defer g.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(x)) {
		n := min(int64(len(x)), size-off)
		_, err := f.ReadAt(x[:n], off)
		must(t, err)
		_, err = g.ReadAt(y[:n], off)
		must(t, err)
		if !bytes.Equal(x[:n], y[:n]) {
			t.Fatalf("%s and %s differ within %d bytes from %d", a, b, n, off)
		}
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// loop attaches a file of that size, filled with other bytes, as a block device.
func loop(t *testing.T, size int64) string {
	t.Helper()
	testbed.Need(t, "root", "losetup")
	path := filepath.Join(testbed.Dir(t), "device.img")
	must(t, os.WriteFile(path, bytes.Repeat([]byte("old bytes"), int(size)/9+1), 0o600))
	must(t, os.Truncate(path, size))
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, exec.Command("losetup", "--detach", device).Run()) })
	return device
}

func TestImageRoundTrip(t *testing.T) {
	for _, kind := range []string{"btrfs", "ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			testbed.Need(t, kind)
			dir := testbed.Filesystem(t, kind, 1<<30)
			const size = 40<<20 + 777
			path, dest := filepath.Join(dir, "disk.img"), filepath.Join(dir, "restored.img")
			makeImage(t, path, size)
			v := newVault(t, obs.NewMemory())
			ref := backUp(t, v, path)
			res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
			must(t, err)
			if res.WarningCount > 0 || res.Files != 1 {
				t.Errorf("restored %+v", res)
			}
			info, err := os.Stat(dest)
			must(t, err)
			if info.Size() != size {
				t.Errorf("restored image has %d bytes, want %d", info.Size(), size)
			}
			sameBytes(t, path, dest, size)
			if n := allocated(t, dest); n > 6<<20 {
				t.Errorf("restored image takes %d bytes on disk, its content is 5.3 MiB", n)
			}
			if names, err := os.ReadDir(dir); err != nil || strings.Contains(names[0].Name(), "restore") {
				t.Errorf("left beside the image: %v, %v", names, err)
			}
			// Again over it: refused.
			if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest}); !errors.Is(err, restore.ErrTargetExists) {
				t.Errorf("restore over a file: %v", err)
			}
		})
	}
}

func TestImageOfDevice(t *testing.T) {
	const size = 32 << 20
	dir := testbed.Dir(t)
	path := filepath.Join(dir, "disk.img")
	makeImage(t, path, size)
	v := newVault(t, obs.NewMemory())
	ref := backUp(t, v, path)

	t.Run("restored and backed up", func(t *testing.T) {
		device := loop(t, size)
		res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: device})
		must(t, err)
		if res.WarningCount > 0 {
			t.Errorf("warnings: %v", res.Warnings)
		}
		sameBytes(t, path, device, size)
		again := backUp(t, v, device)
		dest := filepath.Join(dir, "from-device")
		_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: again, Dest: dest})
		must(t, err)
		sameBytes(t, path, dest, size)
		if n := allocated(t, dest); n > 6<<20 {
			t.Errorf("an image of a device with 5.3 MiB of content takes %d bytes", n)
		}
	})
	t.Run("larger", func(t *testing.T) {
		device := loop(t, size+4096)
		res, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: device})
		must(t, err)
		if res.WarningCount != 1 {
			t.Errorf("warnings: %v, want one that the device is larger", res.Warnings)
		}
		sameBytes(t, path, device, size)
	})
	t.Run("too small", func(t *testing.T) {
		device := loop(t, size-4096)
		_, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: device})
		if small, ok := errors.AsType[*image.TooSmallError](err); !ok || small.Has != size-4096 || small.Needs != size {
			t.Fatalf("restore: %v", err)
		}
		old := make([]byte, 9)
		f, err := os.Open(device)
		must(t, err)
		defer f.Close()
		if _, err := f.Read(old); err != nil || string(old) != "old bytes" {
			t.Errorf("the device has %q (%v): something was written", old, err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		device := loop(t, size)
		must(t, exec.Command("mkfs.ext4", "-q", device).Run())
		point := t.TempDir()
		must(t, unix.Mount(device, point, "ext4", 0, ""))
		defer func() { must(t, unix.Unmount(point, 0)) }()
		if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: device}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("restore onto a mounted device: %v", err)
		}
	})
}

// A tree and an image beside it come back together.
func TestImageBesideTree(t *testing.T) {
	dir := t.TempDir()
	tree, disk, dest := filepath.Join(dir, "tree"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "dest")
	makeTree(t, tree, 1, 20)
	makeImage(t, disk, 25<<20)
	v := newVault(t, obs.NewMemory())
	ref := backUp(t, v, tree, disk)
	m, err := v.Manifest(t.Context(), ref)
	must(t, err)
	_, err = restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
	must(t, err)
	if d := differences(t, tree, filepath.Join(dest, m.Volumes[0].Name)); d != "" {
		t.Error(d)
	}
	sameBytes(t, disk, filepath.Join(dest, m.Volumes[1].Name), 25<<20)
}
