package snapshot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// victimOf makes this test program run as a victim, which makes and removes views of
// that volume until it is killed.
const victimOf = "HOLDFAST_TEST_VICTIM"

func init() {
	volume := os.Getenv(victimOf)
	if volume == "" {
		return
	}
	ctx := context.Background()
	p, _, err := snapshot.Detect(ctx, snapshot.Request{Volume: volume}, "")
	fmt.Println("begun")
	for i := 0; err == nil; i++ {
		var snap *snapshot.Snapshot
		if snap, err = p.Create(ctx, snapshot.Request{Volume: volume, Host: "h", Job: fmt.Sprint(i), Name: "v"}); err == nil {
			err = p.Remove(ctx, snap.Ref)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// A process dies at any instant while it makes and removes views. Each snapshot that it
// leaves is whole, is found and is removed; a foreign object that looks alike stays.
func TestKilled(t *testing.T) {
	t.Parallel() // it waits for the disk
	testbed.Need(t, "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	vol := subvolume(t, filepath.Join(folder(t, btrfs+"/tree"), "vol"))
	must(t, os.WriteFile(vol+"/file", []byte("content"), 0o600))
	subvolume(t, filepath.Join(vol, "inside"))
	disk := image(t, filepath.Join(xfs, "disk"), 32<<20)
	for i := range int64(2000) { // many extents: the clone takes its time
		overwrite(t, disk, i*16<<10, []byte("content"))
	}
	left := 0
	for round := range 24 {
		volume := []string{vol, disk}[round%2]
		dir := filepath.Join(filepath.Dir(volume), snapshot.SnapshotFolder)
		v := exec.Command("/proc/self/exe")
		v.Env = append(os.Environ(), victimOf+"="+volume)
		out, err := v.StdoutPipe()
		must(t, err)
		must(t, v.Start())
		lines := bufio.NewReader(out)
		if line, _ := lines.ReadString('\n'); line != "begun\n" {
			t.Fatalf("victim: %s", line)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(60 * time.Millisecond))))
		_ = v.Process.Kill()
		if line, _ := lines.ReadString('\n'); line != "" {
			t.Fatalf("victim: %s", line)
		}
		_ = v.Wait()

		// Foreign objects that look alike: a file and a folder of that name without the
		// mark, another host's view.
		folder(t, dir)
		folder(t, filepath.Join(dir, "hf.h.folder.v"))
		must(t, os.WriteFile(filepath.Join(dir, "hf.h.file.v"), []byte("x"), 0o600))
		p, _, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: volume}, "")
		must(t, err)
		other, err := p.Create(t.Context(), snapshot.Request{Volume: volume, Host: "other", Job: "j", Name: "v"})
		must(t, err)

		refs, err := snapshot.Leftovers(t.Context(), snapshot.Request{Volume: volume, Host: "h"})
		must(t, err)
		if len(refs) > 1 {
			t.Errorf("round %d: %v are left of one view at a time", round, refs)
		}
		for _, ref := range refs {
			left++
			if st, err := os.Stat(disk); volume == disk {
				got, gerr := os.Stat(ref.Path)
				if err := errors.Join(err, gerr); err != nil || got.Size() != st.Size() {
					t.Errorf("round %d: a clone with a name is not whole: %v, %v", round, got, err)
				}
			}
			must(t, p.Remove(t.Context(), ref))
		}
		names, err := os.ReadDir(dir)
		must(t, err)
		var got []string
		for _, e := range names {
			if e.Name() != "hf.other.j.v.nested" { // of the view above
				got = append(got, e.Name())
			}
		}
		if want := []string{"hf.h.file.v", "hf.h.folder.v", "hf.other.j.v"}; !slices.Equal(got, want) {
			t.Errorf("round %d: %q are left, want %q", round, got, want)
		}
		must(t, p.Remove(t.Context(), other.Ref))
		must(t, os.RemoveAll(dir))
	}
	if left == 0 {
		t.Error("no kill has left anything: the test is none")
	}
	t.Logf("%d of 24 kills left a view", left)
}

// A full disk is an error that says so, and leaves nothing.
func TestNoSpace(t *testing.T) {
	t.Parallel() // it waits for the disk
	testbed.Need(t, "btrfs", "xfs")
	for _, kind := range []string{"btrfs", "xfs"} {
		root := testbed.Filesystem(t, kind, map[string]int64{"btrfs": 128 << 20, "xfs": 320 << 20}[kind])
		dir := folder(t, filepath.Join(root, "i"))
		vol := image(t, filepath.Join(dir, "disk"), 64<<20)
		if kind == "btrfs" {
			vol = subvolume(t, filepath.Join(dir, "vol"))
		} else {
			for i := range int64(4000) {
				overwrite(t, vol, i*16<<10, []byte("content"))
			}
		}
		command(t, "sync", "-f", root)
		// Large pieces fill the data, files inside the tree the metadata.
		size := 8 << 20
		var err error
		for i := 0; size > 512; i++ {
			if err = os.WriteFile(fmt.Sprint(root, "/fill-", i), make([]byte, size), 0o600); err != nil {
				size /= 2
			}
		}
		for i := 0; i < 20000 && kind == "btrfs"; i++ {
			if err = os.WriteFile(fmt.Sprint(root, "/inline-", i), make([]byte, 1500), 0o600); err != nil {
				break
			}
		}
		p, _, derr := snapshot.Detect(t.Context(), snapshot.Request{Volume: vol}, "")
		must(t, derr)
		var made []snapshot.Ref
		for i := range 2000 {
			var snap *snapshot.Snapshot
			if snap, err = p.Create(t.Context(), snapshot.Request{Volume: vol, Host: "h", Job: fmt.Sprint(i), Name: "v"}); err != nil {
				break
			}
			made = append(made, snap.Ref)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: after %d views: %v", kind, len(made), err)
		}
		refs, lerr := p.Leftovers(t.Context(), snapshot.Request{Volume: vol, Host: "h"})
		if lerr != nil || len(refs) != len(made) {
			t.Errorf("%s: %d views made, %d there, %v", kind, len(made), len(refs), lerr)
		}
		for _, ref := range refs {
			must(t, p.Remove(t.Context(), ref))
		}
		if _, err := os.Lstat(filepath.Join(dir, snapshot.SnapshotFolder)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the folder is left: %v", kind, err)
		}
		t.Logf("%s: full after %d views", kind, len(made))
	}
}

// A view that someone else removes while it is read is seen to be gone.
func TestVanishes(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	vol := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	disk := image(t, filepath.Join(testbed.Xfs(t), "disk"), 1<<20)
	for name, c := range map[string]struct {
		volume string
		vanish func(path string)
	}{
		"btrfs":   {vol, func(path string) { command(t, "btrfs", "subvolume", "delete", path) }},
		"reflink": {disk, func(path string) { must(t, os.Remove(path)) }},
	} {
		p := provider(t, name)
		base, now := viewOf(t, name, c.volume, "base"), viewOf(t, name, c.volume, "now")
		c.vanish(now.Ref.Path)
		if _, err := os.Stat(now.Root + now.Image); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		if ok, err := p.Stands(t.Context(), now.Ref); ok || err != nil {
			t.Errorf("%s: stands: %v, %v", name, ok, err)
		}
		if _, err := p.Changed(t.Context(), base.Base(), now); !errors.Is(err, snapshot.ErrBase) || !strings.Contains(err.Error(), now.Ref.Path) {
			t.Errorf("%s: changed: %v", name, err)
		}
		must(t, p.Remove(t.Context(), now.Ref))
		must(t, p.Remove(t.Context(), base.Ref))
	}
}
