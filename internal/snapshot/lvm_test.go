package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

// lvmGroup is the volume group of the machine; its hyphen is doubled in the names of mappings.
const lvmGroup = "data-1"

// lvmPatience is for all of TestLVM, and a multiple of what that takes.
const lvmPatience = 15 * time.Minute

// TestLVM runs in a virtual machine, as not every kernel that tests run on has a device mapper. One boot serves
// all cases.
func TestLVM(t *testing.T) {
	if !testbed.InMachine() {
		testbed.RunInMachine(t, testbed.MachineSpec{
			Tools: []string{"lvm", "dmsetup", "thin_check", "thin_delta", "mkfs.ext4", "mkfs.xfs", "e2fsck", "xfs_repair"},
			Files: map[string]string{"/etc/lvm/lvm.conf": `
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
devices { global_filter=["r|/dev/vda|"] }
global { thin_check_executable="/usr/bin/thin_check" thin_repair_executable="" }
`},
			Env:     []string{"DM_DISABLE_UDEV=1"}, // there is no udev to make /dev/mapper/…
			Modules: []string{"dm-mod", "dm-thin-pool", "dm-snapshot", "ext4", "xfs"},
			Disks:   []string{testbed.Disk(t, 4<<30)},
		}, lvmPatience)
		return
	}
	if at := os.Getenv(victimVariable); at != "" {
		victim(t, at)
		return
	}
	// A mapping under the disk, so that parts of it can be made to fail.
	sectors := strings.TrimSpace(command(t, "blockdev", "--getsz", "/dev/vda"))
	command(t, "dmsetup", "create", "disk", "--table", "0 "+sectors+" linear /dev/vda 0")
	lvm(t, "pvcreate", "/dev/mapper/disk")
	lvm(t, "vgcreate", lvmGroup, "/dev/mapper/disk")
	lvm(t, "lvcreate", "--type", "thin-pool", "--size", "640m", "--poolmetadatasize", "8m", "--name", "pool-1", lvmGroup)
	lvm(t, "lvcreate", "--thin", "--virtualsize", "4m", "--name", "first", lvmGroup+"/pool-1") // the pool is mapped in full from here on
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"conformance", lvmConformance},
		{"file systems are whole without their journal", lvmWhole},
		{"nothing is made in a pool that is nearly full", lvmNearlyFull},
		{"a pool that gets full is noticed and runs again", lvmGetsFull},
		{"an overflow is named", lvmOverflow},
		{"too little room for a classic snapshot", lvmNoRoom},
		{"a snapshot that vanishes", lvmVanishes},
		{"a device that fails", lvmDeviceFails},
		{"what is not ours stays", lvmForeign},
		{"a restart and a reboot", lvmRestart},
		{"changed blocks are those that differ", lvmChanged},
		{"half-done work of a killed program", lvmHalfDone},
		{"killed at any point", lvmKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin, before := time.Now(), lvmState(t)
			t.Cleanup(func() {
				if after := lvmState(t); after != before {
					t.Errorf("left behind:\n%s\nbefore it was:\n%s", after, before)
				}
				t.Logf("%.1f s", time.Since(begin).Seconds())
			})
			c.test(t)
		})
	}
}

func lvm(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, append([]string{"lvm"}, args...)...)
}

// lvmState tells of all logical volumes, their tags, mappings, mounts and folders.
func lvmState(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	folders, _ := filepath.Glob(snapshot.MountFolder + "/*/*")
	return lvm(t, "lvs", "--all", "--noheadings", "-o", "lv_name,lv_tags,origin", lvmGroup) +
		command(t, "dmsetup", "info", "-c", "--noheadings", "-o", "name,suspended") + string(mounts) + strings.Join(folders, "\n")
}

// lvmThin makes a thin volume in the pool, classic one beside it; both are of that size (such as "100m") and go with the test.
func lvmThin(t *testing.T, name, size string) string {
	t.Helper()
	lvm(t, "lvcreate", "--thin", "--virtualsize", size, "--name", name, lvmGroup+"/pool-1")
	t.Cleanup(func() { lvm(t, "lvremove", "--yes", lvmGroup+"/"+name) })
	return "/dev/" + lvmGroup + "/" + name
}

func lvmClassic(t *testing.T, name, size string) string {
	t.Helper()
	lvm(t, "lvcreate", "--wipesignatures", "n", "--size", size, "--name", name, lvmGroup)
	t.Cleanup(func() { lvm(t, "lvremove", "--yes", lvmGroup+"/"+name) })
	return "/dev/" + lvmGroup + "/" + name
}

// lvmMounted makes a file system on a device and mounts it until the test ends.
func lvmMounted(t *testing.T, kind, device string) string {
	t.Helper()
	force := "-F"
	if kind == "xfs" {
		force = "-f"
	}
	command(t, "mkfs."+kind, "-q", force, device)
	point := folder(t, filepath.Join(t.TempDir(), "point"))
	if err := unix.Mount(device, point, kind, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	return point
}

// lvmNameOf gives the logical volume of a device's snapshot.
func lvmNameOf(snap *snapshot.Snapshot) string {
	return snap.Image[strings.LastIndexByte(snap.Image, '-')+1:]
}

func lvmRequest(volume, job string) snapshot.Request {
	return snapshot.Request{Volume: volume, Host: "host-1", Job: job, Name: "data"}
}

// lvmTake makes a snapshot of the automatic choice, which has to be the named provider's.
func lvmTake(t *testing.T, want, volume, job string) (snapshot.Provider, *snapshot.Snapshot) {
	t.Helper()
	p, reason, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: volume}, "")
	if err != nil || p.Name() != want {
		t.Fatalf("%v: %s, %v", p, reason, err)
	}
	begin := time.Now()
	snap, err := p.Create(t.Context(), lvmRequest(volume, job))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: made in %d ms", want, time.Since(begin).Milliseconds())
	t.Cleanup(func() {
		if err := p.Remove(context.Background(), snap.Ref); err != nil {
			t.Error(err)
		}
	})
	return p, snap
}

func lvmCheck(t *testing.T, p snapshot.Provider, ref snapshot.Ref, want error) {
	t.Helper()
	if err := p.(snapshot.Checker).Check(t.Context(), ref); !errors.Is(err, want) {
		t.Errorf("check: %v, want %v", err, want)
	}
}

func lvmConformance(t *testing.T) {
	run := func(name, want, root string) {
		t.Run(name, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
				volume := folder(t, filepath.Join(root, strings.ReplaceAll(t.Name(), "/", "-"), "a b", "volume"))
				return snapshottest.Subject{Provider: provider(t, want), Volume: volume, Slow: true}
			})
		})
	}
	run("thin xfs", snapshot.NameLVMThin, lvmMounted(t, "xfs", lvmThin(t, "t-xfs", "320m")))
	run("classic ext4", snapshot.NameLVMClassic, lvmMounted(t, "ext4", lvmClassic(t, "c-ext4", "64m")))
}

// A writer makes, fills, renames and removes files without a sync. Every snapshot is a whole file system, read without the journal.
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
				// Held by nobody: what was written before the call has to be in it, whatever is written meanwhile.
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
					command(t, "e2fsck", "-fn", device) // complains where it is not what a clean one is
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

// lvmEqualAfterReplay mounts a copy of the device of an xfs with its journal replayed: what it holds is what is seen without.
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

// lvmFill writes n MiB of random bytes to a device, from an offset in MiB.
func lvmFill(t *testing.T, device string, offset, n int64) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.NewOffsetWriter(f, offset<<20), io.LimitReader(lvmRandom(), n<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func lvmRandom() io.Reader { return rand.NewChaCha8([32]byte{}) }

// lvmSmallPool makes a pool of 64 MiB with one volume of 128 MiB.
func lvmSmallPool(t *testing.T) string {
	t.Helper()
	lvm(t, "lvcreate", "--type", "thin-pool", "--size", "64m", "--name", "small", lvmGroup)
	t.Cleanup(func() { lvm(t, "lvremove", "--yes", lvmGroup+"/small") })
	lvm(t, "lvcreate", "--thin", "--virtualsize", "128m", "--name", "in-small", lvmGroup+"/small")
	return "/dev/" + lvmGroup + "/in-small"
}

func lvmNearlyFull(t *testing.T) {
	device := lvmSmallPool(t)
	lvmFill(t, device, 0, 59) // 92 %
	p := provider(t, snapshot.NameLVMThin)
	_, err := p.Create(t.Context(), lvmRequest(device, "job"))
	if !errors.Is(err, snapshot.ErrNoRoom) || !strings.Contains(err.Error(), lvmGroup+"/small") {
		t.Errorf("create: %v", err)
	}
	if refs, err := p.Leftovers(t.Context(), lvmRequest(device, "job")); err != nil || len(refs) > 0 {
		t.Errorf("left: %v, %v", refs, err)
	}
}

// The writer of the volume runs into the end of the pool while a snapshot stands. Check names the cause,
// and with the snapshot gone the writer goes on.
func lvmGetsFull(t *testing.T) {
	device := lvmSmallPool(t)
	lvmFill(t, device, 0, 40)
	p, snap := lvmTake(t, snapshot.NameLVMThin, device, "job")
	lvmCheck(t, p, snap.Ref, nil)
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DSYNC, 0)
		if err == nil {
			_, err = io.Copy(f, io.LimitReader(lvmRandom(), 40<<20)) // 40 are there, 40 more are needed, 64 is all
			err = errors.Join(err, f.Close())
		}
		done <- err
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := p.(snapshot.Checker).Check(t.Context(), snap.Ref)
		if errors.Is(err, snapshot.ErrNoRoom) {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("check: %v", err)
		}
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the writer: %v", err)
	}
}

func lvmOverflow(t *testing.T) {
	device := lvmClassic(t, "over", "2g")
	p, snap := lvmTake(t, snapshot.NameLVMClassic, device, "job")
	lvmCheck(t, p, snap.Ref, nil)
	if ok, err := p.Stands(t.Context(), snap.Ref); !ok || err != nil {
		t.Errorf("stands: %v, %v", ok, err)
	}
	// One part in five would be 410 MiB, but 1 GiB is the least.
	size := strings.TrimSpace(lvm(t, "lvs", "--noheadings", "--units", "m", "--nosuffix", "-o", "lv_size", snap.Image))
	if size != "1024.00" {
		t.Errorf("the snapshot has room for %s MiB", size)
	}
	lvm(t, "lvreduce", "--force", "--yes", "--size", "8m", lvmGroup+"/"+lvmNameOf(snap))
	lvmFill(t, device, 0, 16)
	if _, err := lvmReadAll(snap.Image); !errors.Is(err, unix.EIO) {
		t.Errorf("read: %v", err)
	}
	lvmCheck(t, p, snap.Ref, snapshot.ErrOverflow)
	if ok, err := p.Stands(t.Context(), snap.Ref); ok || err != nil {
		t.Errorf("stands: %v, %v", ok, err)
	}
}

func lvmReadAll(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(io.Discard, f)
}

func lvmNoRoom(t *testing.T) {
	device := lvmClassic(t, "large", "2g")
	lvm(t, "lvcreate", "--extents", "90%FREE", "--name", "rest", lvmGroup)
	defer lvm(t, "lvremove", "--yes", lvmGroup+"/rest")
	_, err := provider(t, snapshot.NameLVMClassic).Create(t.Context(), lvmRequest(device, "job"))
	if !errors.Is(err, snapshot.ErrNoRoom) || !strings.Contains(err.Error(), lvmGroup) {
		t.Errorf("create: %v", err)
	}
}

func lvmVanishes(t *testing.T) {
	for _, device := range []string{lvmThin(t, "gone-t", "16m"), lvmClassic(t, "gone-c", "16m")} {
		p, _, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: device}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, snap := lvmTake(t, p.Name(), device, "job")
		if n, err := lvmReadAll(snap.Image); n != 16<<20 || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
		lvm(t, "lvremove", "--yes", snap.Image)
		if _, err := lvmReadAll(snap.Image); err == nil {
			t.Error("it can still be read")
		}
		lvmCheck(t, p, snap.Ref, snapshot.ErrGone)
		if ok, err := p.Stands(t.Context(), snap.Ref); ok || err != nil {
			t.Errorf("stands: %v, %v", ok, err)
		}
	}
}

// A sick disk under the pool: the read says so, the snapshot itself is blameless.
func lvmDeviceFails(t *testing.T) {
	device := lvmThin(t, "sick", "64m")
	lvmFill(t, device, 0, 64)
	p, snap := lvmTake(t, snapshot.NameLVMThin, device, "job")
	sectors, err := strconv.Atoi(strings.TrimSpace(command(t, "blockdev", "--getsz", "/dev/vda")))
	if err != nil {
		t.Fatal(err)
	}
	table := func(text string) {
		command(t, "dmsetup", "suspend", "--noflush", "--nolockfs", "disk")
		command(t, "dmsetup", "load", "disk", "--table", text)
		command(t, "dmsetup", "resume", "disk")
	}
	// The pool's data begins some MiB into the disk; what is sick begins behind its first volumes.
	const from, length = 128 << 11, 512 << 11
	table(fmt.Sprintf("0 %d linear /dev/vda 0\n%d %d error\n%d %d linear /dev/vda %d",
		from, from, length, from+length, sectors-from-length, from+length))
	_, err = lvmReadAll(snap.Image)
	table(fmt.Sprintf("0 %d linear /dev/vda 0", sectors))
	if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), snap.Image) {
		t.Errorf("read: %v", err)
	}
	lvmCheck(t, p, snap.Ref, nil)
}

func lvmForeign(t *testing.T) {
	device := lvmThin(t, "seen", "16m")
	p, snap := lvmTake(t, snapshot.NameLVMThin, device, "job")
	tag := filepath.Base(snap.Ref.Path)
	origin := lvmGroup + "/seen"
	other, err := p.Plan(t.Context(), lvmRequest(device, "other"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := p.Create(t.Context(), lvmRequest(device, "other"))
	if err != nil {
		t.Fatal(err)
	}
	name := lvmNameOf(made)
	if err := p.Remove(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	look := [][]string{
		{"lvcreate", "--snapshot", "--name", name, origin}, // the name of one of ours, without tags
		{"lvcreate", "--snapshot", "--name", "alike-1", "--addtag", "holdfast", "--addtag", tag, origin},
		{"lvcreate", "--snapshot", "--name", "alike-2", "--addtag", "holdfast", origin},
		{"lvcreate", "--snapshot", "--name", "hf_" + strings.Repeat("0", 32), "--addtag", "holdfast", "--addtag", "hf.host-1.job.data", origin},
		{"lvcreate", "--size", "8m", "--name", "hf_" + strings.Repeat("1", 32), "--addtag", "holdfast", lvmGroup},
	}
	for _, args := range look {
		lvm(t, args...)
	}
	refs, err := p.Leftovers(t.Context(), lvmRequest(device, "x"))
	if err != nil || !slices.Equal(refs, []snapshot.Ref{snap.Ref}) {
		t.Errorf("leftovers: %v, %v", refs, err)
	}
	if err := p.Remove(t.Context(), other); !errors.Is(err, snapshot.ErrForeign) {
		t.Errorf("remove what has our name: %v", err)
	}
	if _, err := p.Create(t.Context(), lvmRequest(device, "other")); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("create what is there: %v", err)
	}
	for _, path := range []string{"/x/hf.a.b.c", snapshot.MountFolder + "/" + lvmGroup + "/x", snapshot.MountFolder + "/hf.a.b.c"} {
		if err := p.Remove(t.Context(), snapshot.Ref{Provider: p.Name(), Path: path}); !errors.Is(err, snapshot.ErrForeign) {
			t.Errorf("remove %s: %v", path, err)
		}
	}
	for _, args := range look {
		i := slices.Index(args, "--name")
		lvm(t, "lvremove", "--yes", lvmGroup+"/"+args[i+1]) // fails when it is gone
	}
}

// After a restart of the agent the mount may be gone, after a reboot the mapping and the folder too.
func lvmRestart(t *testing.T) {
	root := lvmMounted(t, "ext4", lvmThin(t, "again", "64m"))
	if err := os.WriteFile(root+"/file", []byte("then"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, snap := lvmTake(t, snapshot.NameLVMThin, root, "job")
	if err := os.WriteFile(root+"/file", []byte("now"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []func(){
		func() {},
		func() {
			if err := unix.Unmount(snap.Ref.Path, 0); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			device := lvmMountedDevice(t, snap.Ref.Path)
			if err := errors.Join(unix.Unmount(snap.Ref.Path, 0), os.RemoveAll(snapshot.MountFolder)); err != nil {
				t.Fatal(err)
			}
			lvm(t, "lvchange", "--activate", "n", device)
		},
	} {
		gone()
		if ok, err := p.Stands(t.Context(), snap.Ref); !ok || err != nil {
			t.Fatalf("stands: %v, %v", ok, err)
		}
		if got, err := os.ReadFile(snap.Root + "/file"); string(got) != "then" {
			t.Errorf("it holds %q, %v", got, err)
		}
	}
}

// The ranges hold all that differs, and nothing that was not written, in whole blocks of the pool.
func lvmChanged(t *testing.T) {
	const size, block = 32 << 20, 64 << 10
	device := lvmThin(t, "delta", "32m")
	lvmFill(t, device, 0, 12)
	p, base := lvmTake(t, snapshot.NameLVMThin, device, "job-0")
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 2 {
		touched := make([]bool, size/block)
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			at, n := rnd.Int64N(size-300_000), 1+rnd.Int64N(300_000)
			if rnd.IntN(4) == 0 {
				at, n = at/block*block, (n+block-1)/block*block
				command(t, "blkdiscard", "-o", strconv.FormatInt(at, 10), "-l", strconv.FormatInt(n, 10), device)
			} else if _, err := io.CopyN(io.NewOffsetWriter(f, at), rand.NewChaCha8([32]byte{byte(at), byte(n)}), n); err != nil {
				t.Fatal(err)
			}
			for b := at / block; b <= (at+n-1)/block; b++ {
				touched[b] = true
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		_, now := lvmTake(t, snapshot.NameLVMThin, device, fmt.Sprintf("job-%d", round+1))
		changes, err := p.Changed(t.Context(), base.Ref, now)
		if err != nil {
			t.Fatal(err)
		}
		ranges, exact := changes.Image()
		if !exact {
			t.Error("not exact")
		}
		older, newer := lvmContent(t, base.Image), lvmContent(t, now.Image)
		end := int64(0)
		for _, r := range ranges {
			if r.Offset < end || r.Length <= 0 || r.End() > size {
				t.Fatalf("ranges out of order: %v", ranges)
			}
			end = r.End()
			for b := r.Offset / block; b < r.End()/block; b++ {
				if !touched[b] {
					t.Errorf("round %d: block %d is told as changed and was not written", round, b)
				}
			}
			copy(older[r.Offset:r.End()], newer[r.Offset:r.End()])
		}
		if !bytes.Equal(older, newer) {
			t.Errorf("round %d: something differs outside of the ranges", round)
		}
		base = now
	}
	_, now := lvmTake(t, snapshot.NameLVMThin, device, "job-9")
	pool := strings.ReplaceAll(lvmGroup, "-", "--") + "-pool--1-tpool"
	message := func(text string) { command(t, "dmsetup", "message", pool, "0", text) }
	held := func() bool { return strings.Fields(command(t, "dmsetup", "status", pool))[6] != "-" }

	message("reserve_metadata_snap")
	if _, err := p.Changed(t.Context(), base.Ref, now); !errors.Is(err, snapshot.ErrBase) {
		t.Errorf("another program's snapshot of the metadata: %v", err)
	}
	if !held() {
		t.Error("another program's snapshot of the metadata is gone")
	}
	// The same with the tag is what a crash of ours has left.
	lvm(t, "lvchange", "--addtag", "hf.host-1.metadata", lvmGroup+"/pool-1")
	if _, err := p.Changed(t.Context(), base.Ref, now); err != nil {
		t.Error(err)
	}
	if held() {
		t.Error("our snapshot of the metadata stays")
	}
	lvm(t, "lvchange", "--addtag", "hf.host-1.metadata", lvmGroup+"/pool-1")
	message("reserve_metadata_snap")
	if _, err := p.Leftovers(t.Context(), lvmRequest(device, "x")); err != nil || held() {
		t.Errorf("leftovers: %v; still held: %v", err, held())
	}

	gone := base.Ref
	gone.Path += "-gone"
	for what, ref := range map[string]snapshot.Ref{"gone": gone, "of another volume": {Provider: p.Name(), Path: base.Ref.Path, Volume: "/x"}} {
		if _, err := p.Changed(t.Context(), ref, now); !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("base that is %s: %v", what, err)
		}
	}
}

func lvmContent(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// victimVariable makes a run of this test program one that makes and removes snapshots of that volume until it is killed.
const victimVariable = "HOLDFAST_LVM_VICTIM"

func victim(t *testing.T, volume string) {
	p, _, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: volume}, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		snap, err := p.Create(t.Context(), lvmRequest(volume, fmt.Sprintf("job-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Remove(t.Context(), snap.Ref); err != nil {
			t.Fatal(err)
		}
	}
}

// An agent dies while a program of LVM is at work for it, in every other round with that program. The next one finds all
// that is left, and the volume can be written.
func lvmKilled(t *testing.T) {
	volumes := []string{lvmMounted(t, "ext4", lvmThin(t, "kill-t", "64m")), lvmMounted(t, "ext4", lvmClassic(t, "kill-c", "64m"))}
	before := lvmState(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	found := 0
	for round := range 8 {
		volume, program := volumes[round%2], []string{"lvcreate", "lvremove"}[round/2%2]
		with := round/4%2 == 0
		lvmKill(t, volume, program, with, time.Duration(rnd.Int64N(int64(400*time.Millisecond))))
		refs, err := snapshot.Leftovers(t.Context(), lvmRequest(volume, "x"))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, ref := range refs {
			found++
			if err := provider(t, ref.Provider).Remove(t.Context(), ref); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if after := lvmState(t); after != before {
			t.Fatalf("round %d, %s killed as well: %v, with %v, left:\n%s\nbefore it was:\n%s", round, program, with, refs, after, before)
		}
		f, err := os.Create(filepath.Join(volume, "file"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("no round left anything, so none showed anything")
	}
}

// lvmKill starts a victim, waits until it runs the program, and a moment longer, and kills it.
func lvmKill(t *testing.T, volume, program string, with bool, moment time.Duration) {
	t.Helper()
	v := exec.Command("/proc/self/exe", "-test.run=^TestLVM$")
	v.Env = append(os.Environ(), victimVariable+"="+volume)
	if err := v.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Wait() }()
	var child int
	for end := time.Now().Add(time.Minute); child == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			_ = v.Process.Kill()
			t.Fatalf("the victim never ran %s", program)
		}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", v.Process.Pid))
		for _, list := range lists {
			pids, _ := os.ReadFile(list)
			for _, pid := range strings.Fields(string(pids)) {
				if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.Contains(line, []byte(program)) {
					child, _ = strconv.Atoi(pid)
				}
			}
		}
	}
	time.Sleep(moment)
	if err := v.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if with {
		_ = unix.Kill(child, unix.SIGKILL) // it may have ended by itself
	}
}

// What a program that was killed at its worst moments leaves: a suspended volume, mappings that LVM forgets. Where nothing
// of ours was begun, a suspended volume is somebody's wish.
func lvmHalfDone(t *testing.T) {
	thin, classic := lvmThin(t, "half-t", "16m"), lvmClassic(t, "half-c", "16m")
	suspended := func(mapping string) bool {
		return strings.Contains(command(t, "dmsetup", "info", "-c", "--noheadings", "-o", "suspended", mapping), "Suspended")
	}
	p, snap := lvmTake(t, snapshot.NameLVMThin, thin, "job")
	for _, mapping := range []string{"data--1-half--t", "data--1-pool--1-tpool"} {
		command(t, "dmsetup", "suspend", mapping)
		if _, err := p.Leftovers(t.Context(), lvmRequest(thin, "x")); err != nil {
			t.Error(err)
		}
		if suspended(mapping) {
			t.Errorf("%s is still suspended", mapping)
		}
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	command(t, "dmsetup", "suspend", "data--1-half--t")
	if _, err := p.Leftovers(t.Context(), lvmRequest(thin, "x")); err != nil {
		t.Error(err)
	}
	if !suspended("data--1-half--t") {
		t.Error("a volume was let run that is none of our business")
	}
	command(t, "dmsetup", "resume", "data--1-half--t")

	p, snap = lvmTake(t, snapshot.NameLVMClassic, classic, "job")
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Fatal(err)
	}
	own := filepath.Base(snap.Image)
	for _, mapping := range []string{own + "-cow", own, "data--1-half--c-real"} {
		command(t, "dmsetup", "create", mapping, "--table", "0 8 error")
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil { // lvmState sees what is left
		t.Error(err)
	}
}
