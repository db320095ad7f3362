package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// viewOf makes a snapshot of volume under that job's name.
func viewOf(t *testing.T, name, volume, job string) *snapshot.Snapshot {
	t.Helper()
	snap, err := provider(t, name).Create(t.Context(), snapshot.Request{Volume: volume, Host: "h", Job: job, Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// changed compares two snapshots; the answer is closed with the test.
func changed(t *testing.T, base, now *snapshot.Snapshot) *snapshot.Changes {
	t.Helper()
	c, err := provider(t, now.Ref.Provider).Changed(t.Context(), base.Base(), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st.Ino
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, offset int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, offset)
	must(t, err)
}

// Every way in which a file, its metadata or its names can change shows by its inode
// number, and an unchanged file does not show.
func TestChangedInodes(t *testing.T) {
	testbed.Need(t, "btrfs")
	vol := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	past := unix.NsecToTimespec(time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC).UnixNano())
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	cases := []struct {
		what string
		// in dir there are file and an empty folder "sub"
		change func(t *testing.T, file, dir string)
		dir    bool // the folder changes too
	}{
		{"write in the middle", func(t *testing.T, file, _ string) { overwrite(t, file, 5000, []byte("x")) }, false},
		{"append", func(t *testing.T, file, _ string) { overwrite(t, file, int64(len(big)), []byte("x")) }, false},
		{"truncate", func(t *testing.T, file, _ string) { must(t, os.Truncate(file, 10)) }, false},
		{"grow", func(t *testing.T, file, _ string) { must(t, os.Truncate(file, 10<<20)) }, false},
		{"punch", func(t *testing.T, file, _ string) {
			fallocate(t, file, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 8192)
		}, false},
		{"write through a mapping", func(t *testing.T, file, _ string) { mapWrite(t, file, 12345) }, false},
		{"same bytes again", func(t *testing.T, file, _ string) { overwrite(t, file, 0, big[:4096]) }, false},
		{"write, then the old times again", func(t *testing.T, file, _ string) {
			var st unix.Stat_t
			must(t, unix.Stat(file, &st))
			overwrite(t, file, 0, []byte("y"))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{st.Atim, st.Mtim}, 0))
		}, false},
		{"time", func(t *testing.T, file, _ string) {
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{past, past}, 0))
		}, false},
		{"owner", func(t *testing.T, file, _ string) { must(t, os.Chown(file, 123, 456)) }, false},
		{"mode", func(t *testing.T, file, _ string) { must(t, os.Chmod(file, 0o4711)) }, false},
		{"attribute new", func(t *testing.T, file, _ string) { must(t, unix.Setxattr(file, "user.new", []byte("1"), 0)) }, false},
		{"attribute replaced", func(t *testing.T, file, _ string) { must(t, unix.Setxattr(file, "user.old", []byte("2"), 0)) }, false},
		{"attribute removed", func(t *testing.T, file, _ string) { must(t, unix.Removexattr(file, "user.old")) }, false},
		{"flag", func(t *testing.T, file, _ string) { command(t, "chattr", "+A", file) }, false},
		{"rename", func(t *testing.T, file, dir string) { must(t, os.Rename(file, dir+"/other")) }, true},
		{"rename into a folder", func(t *testing.T, file, dir string) { must(t, os.Rename(file, dir+"/sub/other")) }, true},
		{"replaced by a rename", func(t *testing.T, file, dir string) {
			must(t, os.WriteFile(dir+"/new", big, 0o644))
			must(t, os.Rename(dir+"/new", file))
		}, true},
		{"hard link", func(t *testing.T, file, dir string) { must(t, os.Link(file, dir+"/link")) }, true},
		{"hard link removed", func(t *testing.T, file, dir string) { must(t, os.Remove(dir+"/second")) }, true},
		{"new file beside", func(t *testing.T, file, dir string) {
			must(t, os.WriteFile(dir+"/beside", nil, 0o644))
			must(t, os.Rename(dir+"/beside", file))
		}, true},
		{"clone into it", func(t *testing.T, file, dir string) { command(t, "cp", "--reflink=always", dir+"/second", file) }, false},
		{"preallocate", func(t *testing.T, file, _ string) { fallocate(t, file, 0, int64(len(big)), 1<<20) }, false},
	}
	for i := range cases {
		dir := folder(t, filepath.Join(vol, fmt.Sprint(i), "sub"))
		dir = filepath.Dir(dir)
		must(t, os.WriteFile(dir+"/file", big, 0o644))
		must(t, unix.Setxattr(dir+"/file", "user.old", []byte("1"), 0))
		must(t, os.Link(dir+"/file", dir+"/second"))
		if cases[i].what == "clone into it" {
			must(t, os.Remove(dir+"/second"))
			must(t, os.WriteFile(dir+"/second", big[:1000], 0o644))
		}
		must(t, os.WriteFile(dir+"/untouched", big[:5000], 0o644))
	}
	nocow := filepath.Join(vol, "nocow")
	command(t, "touch", nocow)
	command(t, "chattr", "+C", nocow)
	must(t, os.WriteFile(nocow, big, 0o644))

	base := viewOf(t, "btrfs", vol, "base")
	same := viewOf(t, "btrfs", vol, "same")
	if n := changed(t, base, same).Inodes(); n != 0 {
		t.Errorf("%d inodes changed while nothing happened", n)
	}
	for round := range 3 { // the second write to nocow goes to the same place as the first
		overwrite(t, nocow, int64(round), []byte("zz"))
		snap := viewOf(t, "btrfs", vol, fmt.Sprint("nocow-", round))
		if c := changed(t, base, snap); !c.Inode(inode(t, nocow)) || c.Inodes() != 1 {
			t.Errorf("nocow, write %d: %v, %d inodes", round, c.Inode(inode(t, nocow)), c.Inodes())
		}
		base = snap
	}
	moved := map[int]uint64{}
	for i, c := range cases {
		dir := filepath.Join(vol, fmt.Sprint(i))
		moved[i] = inode(t, dir+"/file")
		c.change(t, dir+"/file", dir)
	}
	now := viewOf(t, "btrfs", vol, "now")
	got := changed(t, base, now)
	for i, c := range cases {
		dir := filepath.Join(now.Root, fmt.Sprint(i))
		ino := moved[i]
		if _, err := os.Lstat(dir + "/file"); err == nil {
			ino = inode(t, dir+"/file")
		}
		if !got.Inode(ino) {
			t.Errorf("%s: not seen", c.what)
		}
		if got.Inode(inode(t, dir+"/untouched")) {
			t.Errorf("%s: a neighbour is said to have changed", c.what)
		}
		if got.Inode(inode(t, dir)) != c.dir {
			t.Errorf("%s: the folder is said to have changed: %v", c.what, !c.dir)
		}
	}
	if got.Inode(inode(t, now.Root)) || got.Inode(1<<40) {
		t.Error("the root, or a number that nobody has, is said to have changed")
	}
}

func fallocate(t *testing.T, path string, mode uint32, offset, length int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Fallocate(int(f.Fd()), mode, offset, length))
}

func mapWrite(t *testing.T, path string, offset int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, offset+1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	m[offset] ^= 0xff
	must(t, unix.Munmap(m))
}

// A base that can't be vouched for is ErrBase, with the reason.
func TestDoubtfulBase(t *testing.T) {
	testbed.Need(t, "btrfs")
	root := testbed.Btrfs(t)
	vol := subvolume(t, filepath.Join(folder(t, filepath.Join(root, "a")), "vol"))
	must(t, os.WriteFile(vol+"/file", []byte("x"), 0o644))
	p := provider(t, "btrfs")
	base := viewOf(t, "btrfs", vol, "base")
	now := viewOf(t, "btrfs", vol, "now")
	with := func(change func(*snapshot.Ref)) snapshot.Ref { r := base.Ref; change(&r); return r }

	elsewhere := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	other := subvolume(t, filepath.Join(folder(t, filepath.Join(root, "b")), "vol"))
	rewritten := viewOf(t, "btrfs", vol, "rewritten")
	command(t, "btrfs", "property", "set", rewritten.Ref.Path, "ro", "false")
	must(t, os.WriteFile(rewritten.Ref.Path+"/file", []byte("y"), 0o644))
	command(t, "btrfs", "property", "set", rewritten.Ref.Path, "ro", "true")
	replaced := subvolume(t, filepath.Join(folder(t, filepath.Join(root, "c")), "vol"))
	old := viewOf(t, "btrfs", replaced, "old")
	// A roll-back: the volume is now a writable snapshot of its earlier state.
	command(t, "btrfs", "subvolume", "snapshot", old.Ref.Path, replaced+".new")
	must(t, os.Rename(replaced, replaced+".old"))
	must(t, os.Rename(replaced+".new", replaced))
	rolled := viewOf(t, "btrfs", replaced, "new")
	gone := viewOf(t, "btrfs", vol, "gone")
	must(t, p.Remove(t.Context(), gone.Ref))
	later := viewOf(t, "btrfs", vol, "later")
	writable := filepath.Join(filepath.Dir(base.Ref.Path), "hf.h.writable.v")
	command(t, "btrfs", "subvolume", "snapshot", vol, writable)

	for _, c := range []struct {
		what string
		base snapshot.Ref
		now  *snapshot.Snapshot
		want error
	}{
		{"good", base.Ref, now, nil},
		{"missing", gone.Ref, now, snapshot.ErrBase},
		{"of another file system", with(func(r *snapshot.Ref) { r.Path = viewOf(t, "btrfs", elsewhere, "j").Ref.Path }), now, snapshot.ErrBase},
		{"of another volume", viewOf(t, "btrfs", other, "j").Ref, now, snapshot.ErrBase},
		{"of another subvolume", with(func(r *snapshot.Ref) { r.Path = viewOf(t, "btrfs", other, "k").Ref.Path }), now, snapshot.ErrBase},
		{"written to", rewritten.Ref, now, snapshot.ErrBase},
		{"before a roll-back", old.Ref, rolled, snapshot.ErrBase},
		{"younger", later.Ref, now, snapshot.ErrBase},
		{"the view itself", now.Ref, now, snapshot.ErrBase},
		{"can be written", with(func(r *snapshot.Ref) { r.Path = writable }), now, snapshot.ErrBase},
		{"the volume", with(func(r *snapshot.Ref) { r.Path = vol }), now, snapshot.ErrBase},
		{"of another provider", with(func(r *snapshot.Ref) { r.Provider = "freeze" }), now, snapshot.ErrUsage},
	} {
		changes, err := p.Changed(t.Context(), snapshot.Base{Ref: c.base}, c.now)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if err == nil {
			must(t, changes.Close())
		}
	}
}

// A balance moves all data: unchanged files may be listed then, but no change is missed.
func TestChangedAfterBalance(t *testing.T) {
	testbed.Need(t, "btrfs")
	root := testbed.Btrfs(t)
	vol := subvolume(t, filepath.Join(root, "vol"))
	for i := range 20 {
		must(t, os.WriteFile(fmt.Sprint(vol, "/", i), bytes.Repeat([]byte{byte(i)}, 300<<10), 0o644))
	}
	base := viewOf(t, "btrfs", vol, "base")
	overwrite(t, vol+"/7", 5000, []byte("x"))
	command(t, "btrfs", "balance", "start", "--full-balance", root)
	now := viewOf(t, "btrfs", vol, "now")
	c, err := provider(t, "btrfs").Changed(t.Context(), base.Base(), now)
	if errors.Is(err, snapshot.ErrBase) {
		t.Log("doubted:", err)
		return // everything is read
	}
	must(t, err)
	defer c.Close()
	ranges, _, err := c.File(inode(t, now.Root+"/7"), 300<<10)
	must(t, err)
	if !c.Inode(inode(t, now.Root+"/7")) || !slices.ContainsFunc(ranges, func(r snapshot.Range) bool { return r.Offset <= 5000 && r.End() > 5000 }) {
		t.Errorf("the write before the balance is not seen: %v", ranges)
	}
}
