package evidence

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mountBy is MountOf by other sources of facts.
func (k kernel) mountBy(t *testing.T, path string) string {
	t.Helper()
	f, err := open(path)
	must(t, err)
	defer f.Close()
	return withFD(f, k.mount)
}

// TestMountIsOneMountedFileSystem: the id stays the same for all mounts of a mounted file
// system and through every remount, and never comes again after the last of them went.
func TestMountIsOneMountedFileSystem(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := testbed.NewPowerDisk(t, kind, 512<<20)
			sub := filepath.Join(d.Point, "folder")
			must(t, os.Mkdir(sub, 0o755))
			seen := map[string]bool{}
			for range 15 {
				id := MountOf(d.Point)
				if id == "" || seen[id] {
					t.Fatalf("mount %d has the id %q, which an earlier mount had", len(seen), id)
				}
				seen[id] = true
				if MountOf(sub) != id {
					t.Error("a folder has another id than the root")
				}
				d.Unmount()
				d.Mount()
			}
			id := MountOf(d.Point)
			bind := t.TempDir()
			must(t, unix.Mount(sub, bind, "", unix.MS_BIND, ""))
			if MountOf(bind) != id {
				t.Error("a bind mount has another id")
			}
			must(t, unix.Unmount(bind, 0))
			must(t, unix.Mount(d.Device, bind, kind, 0, ""))
			if MountOf(bind) != id {
				t.Error("a second mount has another id")
			}
			must(t, unix.Unmount(bind, 0))
			must(t, unix.Mount("", d.Point, "", unix.MS_REMOUNT|unix.MS_NOATIME, ""))
			if MountOf(d.Point) != id {
				t.Error("a remount with another option has another id")
			}
			must(t, unix.Mount("", d.Point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			if MountOf(d.Point) == id {
				t.Error("a file system that became read-only has the same id")
			}
		})
	}
}

// TestMountOfManyDevices: a btrfs of two devices and its subvolumes are one mounted file system.
func TestMountOfManyDevices(t *testing.T) {
	d := testbed.NewPowerDisk(t, "btrfs", 512<<20)
	id := MountOf(d.Point)
	btrfs, err := testbed.Program("btrfs")
	must(t, err)
	must(t, exec.Command(btrfs, "subvolume", "create", filepath.Join(d.Point, "sub")).Run())
	must(t, exec.Command(btrfs, "subvolume", "snapshot", "-r", filepath.Join(d.Point, "sub"), filepath.Join(d.Point, "snap")).Run())
	var devices []string
	for range 2 {
		devices = append(devices, testbed.NewPowerDisk(t, "ext4", 512<<20).Free())
	}
	must(t, exec.Command(btrfs, append([]string{"device", "add", "-f", devices[0], devices[1]}, d.Point)...).Run())
	if MountOf(d.Point) != id {
		t.Error("the id is another one with more devices")
	}
	at := t.TempDir()
	must(t, unix.Mount(d.Device, at, "btrfs", 0, "subvol=sub"))
	defer unix.Unmount(at, 0)
	for _, path := range []string{at, filepath.Join(d.Point, "sub"), filepath.Join(d.Point, "snap")} {
		if MountOf(path) != id {
			t.Errorf("%s has another id than the file system", path)
		}
	}
}

// TestMountAfterAnError: once ext4 has counted an error, the earlier times are not
// believed, because the journal may not bring them to the disk any more.
func TestMountAfterAnError(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 256<<20, "errors=continue")
	id := MountOf(d.Point)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(d.Device), "trigger_fs_error")
	must(t, os.WriteFile(trigger, []byte("test\n"), 0o600))
	// ext4 counts a little later
	for end := time.Now().Add(time.Minute); MountOf(d.Point) == id; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the id is the same after an error")
		}
	}
}

// TestMountWithoutFacts: no guess replaces a fact that the kernel does not tell.
func TestMountWithoutFacts(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 256<<20)
	empty := t.TempDir()
	inMemory := testbed.Tmpfs(t, "size=1m")
	write := func(dir, content string) string {
		path := filepath.Join(dir, "boot_id")
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	const uuid = "f9c1d5c4-3c1f-4a7e-9f0e-2b1f6a3c5d7e\n"
	whole := running.mountBy(t, d.Point)
	for name, c := range map[string]struct {
		k     kernel
		known bool
	}{
		"all facts":                       {running, true},
		"a boot id that was mounted over": {kernel{bootID: write(inMemory, uuid), sys: "/sys"}, true},
		"a boot id on a disk":             {kernel{bootID: write(d.Point, uuid), sys: "/sys"}, false},
		"no boot id":                      {kernel{bootID: filepath.Join(empty, "none"), sys: "/sys"}, false},
		"an empty boot id":                {kernel{bootID: write(testbed.Tmpfs(t, "size=1m"), "\n"), sys: "/sys"}, false},
	} {
		if id := c.k.mountBy(t, d.Point); (id != "") != c.known || name != "all facts" && id == whole {
			t.Errorf("%s: %q", name, id)
		}
	}
	f, err := open(d.Point)
	must(t, err)
	defer f.Close()
	for name, k := range map[string]kernel{
		"no sysfs":      {sys: empty},
		"an old kernel": {sys: "/sys", release: "5.4.0-200-generic"},
		"odd release":   {sys: "/sys", release: "unknown"},
	} {
		if which, err := k.superblock(int(f.Fd()), unix.EXT4_SUPER_MAGIC); err == nil {
			t.Errorf("%s: the superblock is %q", name, which)
		}
	}
	// A folder that somebody else put in the place of sysfs.
	link := filepath.Join(empty, "dev/block")
	must(t, os.MkdirAll(link, 0o755))
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	name := filepath.Base(d.Device)
	must(t, os.Symlink("../../devices/"+name, filepath.Join(link, deviceNumber(&st))))
	must(t, os.MkdirAll(filepath.Join(empty, "fs/ext4", name), 0o755))
	if which, err := (kernel{sys: empty}).superblock(int(f.Fd()), unix.EXT4_SUPER_MAGIC); err == nil {
		t.Errorf("a folder on a disk: the superblock is %q", which)
	}
}

// TestMountIDFallback: without sysfs the number of the mount
// counts, where the kernel gives each once.
func TestMountIDFallback(t *testing.T) {
	d := testbed.NewPowerDisk(t, "xfs", 512<<20)
	k := kernel{bootID: running.bootID, sys: t.TempDir()}
	seen := map[string]bool{}
	for range 20 {
		id := k.mountBy(t, d.Point)
		if !(kernel{}).atLeast([2]int{6, 8}) {
			if id != "" {
				t.Errorf("this kernel gives mount ids again, and the id is %q", id)
			}
			return
		}
		if id == "" || seen[id] || id != k.mountBy(t, d.Point) {
			t.Fatalf("id %q of mount %d", id, len(seen))
		}
		seen[id] = true
		d.Unmount()
		d.Mount()
	}
}
