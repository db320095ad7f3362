package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
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

// lvmPatience is for all of TestLVM, and a multiple of the time that the test takes.
const lvmPatience = 15 * time.Minute

// TestLVM runs in a virtual machine, as not every kernel that tests
// run on has a device mapper. One boot serves all cases.
func TestLVM(t *testing.T) {
	if !testbed.InMachine() {
		spec := testbed.LVMMachine(t, 4<<30)
		spec.Tools = append(spec.Tools, "e2fsck", "xfs_repair")
		spec.Modules = append(spec.Modules, "loop", "dm-crypt", "xts", "ecb")
		testbed.RunInMachine(t, spec, lvmPatience)
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
	// the pool is mapped in full from here on
	lvm(t, "lvcreate", "--thin", "--virtualsize", "4m", "--name", "first", lvmGroup+"/pool-1")
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
		{"what is mounted on a device is flushed", lvmStacked},
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

// lvmThin makes a thin volume in the pool, classic one beside it;
// both are of that size (such as "100m") and go with the test.
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

// The writer of the volume runs into the end of the pool while a snapshot
// stands. Check names the cause, and with the snapshot gone the writer goes on.
func lvmGetsFull(t *testing.T) {
	device := lvmSmallPool(t)
	lvmFill(t, device, 0, 40)
	p, snap := lvmTake(t, snapshot.NameLVMThin, device, "job")
	lvmCheck(t, p, snap.Ref, nil)
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DSYNC, 0)
		if err == nil {
			// 40 are there, 40 more are needed, 64 is all
			_, err = io.Copy(f, io.LimitReader(lvmRandom(), 40<<20))
			err = errors.Join(err, f.Close())
		}
		done <- err
	}()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
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
	// The pool's data begins some MiB into the disk; the faulty sectors begin behind
	// its first volumes.
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

// After a restart of the agent the mount may be gone, after a
// reboot the mapping and the folder too.
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
