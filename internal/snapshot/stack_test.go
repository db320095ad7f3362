package snapshot_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

// mountAt mounts a device until the test ends and gives where.
func mountAt(t *testing.T, device, kind, options string) string {
	t.Helper()
	point := t.TempDir()
	if err := unix.Mount(device, point, kind, 0, options); err != nil {
		t.Fatalf("mount %s: %v", device, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	return point
}

// Through every stack of layers between an image and the file system that a program
// writes to, the view holds the written data.
func TestFlushStacked(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs", "ext4")
	btrfs, xfs, ext4 := testbed.Btrfs(t), testbed.Xfs(t), testbed.Ext4(t)
	for _, on := range []struct{ root, provider string }{{btrfs, "btrfs"}, {btrfs, "reflink"}, {xfs, "reflink"}, {ext4, "freeze"}} {
		for _, c := range []struct {
			name string
			size int64
			// stack puts a file system into the image and mounts it, and returns its
			// mount point; look mounts the file system of a copy of the image.
			stack, look func(t *testing.T, path string) (point string)
		}{
			{"xfs", 320 << 20, makes("xfs"), mounts("xfs")},
			{"btrfs", 128 << 20, makes("btrfs"), mounts("btrfs")},
			{"partition", 16 << 20, stackPartition, lookPartition},
			{"image in an image", 16 << 20, stackTwice, lookTwice},
			{"hidden by another mount", 4 << 20, stackHidden, mounts("ext4")},
			{"another mount namespace", 4 << 20, stackElsewhere, mounts("ext4")},
		} {
			t.Run(on.provider+" on "+filepath.Base(on.root)+"/"+c.name, func(t *testing.T) {
				dir := folder(t, filepath.Join(on.root, strings.ReplaceAll(t.Name(), "/", "-")))
				disk := image(t, filepath.Join(dir, "disk.img"), c.size)
				snapshottest.WriteRecords(t, c.stack(t, disk))
				p := provider(t, on.provider)
				snap, err := p.Create(t.Context(), snapshot.Request{Volume: disk, Host: "h", Job: "j", Name: "v"})
				must(t, err)
				defer func() { must(t, p.Remove(t.Context(), snap.Ref)) }()
				if len(snap.Unflushed) > 0 {
					t.Errorf("not flushed: %q", snap.Unflushed)
				}
				copied := filepath.Join(t.TempDir(), "copy")
				command(t, "cp", "--sparse=always", snap.Image, copied)
				snapshottest.LookForRecords(t, c.look(t, copied))
			})
		}
	}
}

func makes(kind string) func(t *testing.T, path string) string {
	return func(t *testing.T, path string) string {
		force := "-f"
		if kind == "ext4" {
			force = "-F"
		}
		command(t, "mkfs."+kind, "-q", force, path)
		return mountAt(t, snapshottest.AttachLoop(t, path), kind, "")
	}
}

func mounts(kind string) func(t *testing.T, path string) string {
	options := map[string]string{"xfs": "nouuid"}[kind]
	return func(t *testing.T, path string) string {
		if kind == "btrfs" {
			command(t, "btrfstune", "-f", "-u", path) // the original is mounted
		}
		return mountAt(t, snapshottest.AttachLoop(t, path), kind, options)
	}
}

// addPartition tells the kernel of a partition on a loop device, behind its first MiB.
func addPartition(t *testing.T, loop string) string {
	t.Helper()
	sectors := strings.TrimSpace(command(t, "blockdev", "--getsz", loop))
	var all int
	if _, err := fmt.Sscan(sectors, &all); err != nil {
		t.Fatal(err)
	}
	command(t, "addpart", loop, "1", "2048", fmt.Sprint(all-2048))
	t.Cleanup(func() { command(t, "delpart", loop, "1") })
	return loop + "p1"
}

func stackPartition(t *testing.T, path string) string {
	part := addPartition(t, snapshottest.AttachLoop(t, path))
	command(t, "mkfs.ext4", "-q", "-F", part)
	return mountAt(t, part, "ext4", "")
}

func lookPartition(t *testing.T, path string) string {
	return mountAt(t, addPartition(t, snapshottest.AttachLoop(t, path)), "ext4", "")
}

func stackTwice(t *testing.T, path string) string {
	outer := makes("ext4")(t, path)
	return makes("ext4")(t, image(t, filepath.Join(outer, "inner.img"), 4<<20))
}

func lookTwice(t *testing.T, path string) string {
	return mounts("ext4")(t, filepath.Join(mounts("ext4")(t, path), "inner.img"))
}

func stackHidden(t *testing.T, path string) string {
	point := makes("ext4")(t, path)
	dir, err := unix.Open(point, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(dir) })
	must(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	return fmt.Sprintf("/proc/self/fd/%d", dir)
}

// stackElsewhere mounts the image in a mount namespace of another process.
func stackElsewhere(t *testing.T, path string) string {
	command(t, "mkfs.ext4", "-q", "-F", path)
	loop, point := snapshottest.AttachLoop(t, path), t.TempDir()
	other := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `mount "$0" "$1" && echo mounted && read -r end`, loop, point)
	in, err := other.StdinPipe()
	must(t, err)
	out, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	t.Cleanup(func() {
		in.Close()
		_ = other.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Fatalf("mount in another namespace: %q, %v", line, err)
	}
	return fmt.Sprintf("/proc/%d/root%s", other.Process.Pid, point)
}

// A file system that spans two images is flushed for either image, also for the image
// of its second device.
func TestFlushStackedSeveralDevices(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	xfs := testbed.Xfs(t)
	disks := []string{image(t, xfs+"/a.img", 128<<20), image(t, xfs+"/b.img", 128<<20)}
	loops := []string{snapshottest.AttachLoop(t, disks[0]), snapshottest.AttachLoop(t, disks[1])}
	command(t, "mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", loops[0], loops[1])
	point := mountAt(t, loops[0], "btrfs", "device="+loops[0]+",device="+loops[1])
	must(t, os.WriteFile(point+"/unsynced", []byte("x"), 0o600))
	if lacks := snapshot.FlushStacked(t.Context(), disks[1]); len(lacks) > 0 {
		t.Errorf("not flushed: %q", lacks)
	}
	if dirty := command(t, "sh", "-c", "filefrag -v "+point+"/unsynced"); strings.Contains(dirty, "delalloc") {
		t.Errorf("not on the disk yet: %s", dirty)
	}
}

// Everything that may not be flushed is named, and nothing else is.
func TestFlushStackedSaysWhatItCannot(t *testing.T) {
	testbed.Need(t, "xfs")
	xfs := testbed.Xfs(t)
	t.Run("nothing is mounted", func(t *testing.T) {
		disk := image(t, xfs+"/plain.img", 4<<20)
		if lacks := snapshot.FlushStacked(t.Context(), disk); len(lacks) > 0 {
			t.Errorf("a plain file: %q", lacks)
		}
		snapshottest.AttachLoop(t, disk)
		if lacks := snapshot.FlushStacked(t.Context(), disk); len(lacks) > 0 {
			t.Errorf("a loop device that nobody uses: %q", lacks)
		}
	})
	t.Run("unmounted, but in use", func(t *testing.T) {
		disk := image(t, xfs+"/lazy.img", 4<<20)
		point := makes("ext4")(t, disk)
		snapshottest.WriteRecords(t, point)
		file, err := os.Open(point + "/records")
		must(t, err)
		defer file.Close()
		must(t, unix.Unmount(point, unix.MNT_DETACH))
		if lacks := snapshot.FlushStacked(t.Context(), disk); len(lacks) > 0 {
			t.Errorf("said: %q", lacks)
		}
		snapshottest.CheckRecords(t, disk)
	})
	t.Run("somebody has the device alone", func(t *testing.T) {
		disk := image(t, xfs+"/taken.img", 4<<20)
		loop := snapshottest.AttachLoop(t, disk)
		taken, err := os.OpenFile(loop, os.O_RDWR|unix.O_EXCL, 0)
		must(t, err)
		defer taken.Close()
		for _, volume := range []string{disk, loop} {
			lacks := snapshot.FlushStacked(t.Context(), volume)
			if len(lacks) != 1 || !strings.Contains(lacks[0], volume) || !strings.Contains(lacks[0], loop) || !strings.Contains(lacks[0], "detach") {
				t.Errorf("said of %s: %q", volume, lacks)
			}
		}
	})
	t.Run("another's image", func(t *testing.T) {
		disk := image(t, folder(t, xfs+"/mine")+"/disk.img", 4<<20)
		other := image(t, folder(t, xfs+"/other")+"/disk.img", 4<<20)
		taken, err := os.OpenFile(snapshottest.AttachLoop(t, other), os.O_RDWR|unix.O_EXCL, 0)
		must(t, err)
		defer taken.Close()
		for _, volume := range []string{disk, filepath.Dir(disk)} {
			if lacks := snapshot.FlushStacked(t.Context(), volume); len(lacks) > 0 {
				t.Errorf("%s: %q", volume, lacks)
			}
		}
	})
}
