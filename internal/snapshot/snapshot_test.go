package snapshot_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/snapshot/snapshottest"
	"holdfast/internal/testbed"
)

func provider(t *testing.T, name string) snapshot.Provider {
	t.Helper()
	p, err := snapshot.ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func folder(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// image makes a sparse file of that size in bytes.
func image(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

func subvolume(t *testing.T, path string) string {
	t.Helper()
	command(t, "btrfs", "subvolume", "create", path)
	return path
}

func TestConformance(t *testing.T) {
	testbed.Need(t, "btrfs", "ext4", "xfs")
	btrfs, ext4, xfs := testbed.Btrfs(t), testbed.Ext4(t), testbed.Xfs(t)
	sub := func(t *testing.T) string {
		return folder(t, filepath.Join(btrfs, strings.ReplaceAll(t.Name(), "/", "-")))
	}
	t.Run("btrfs subvolume", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			return snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: subvolume(t, filepath.Join(sub(t), "vol"))}
		})
	})
	t.Run("btrfs folder in a subvolume", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			return snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: folder(t, filepath.Join(sub(t), "a", "vol"))}
		})
	})
	t.Run("btrfs with a folder for snapshots", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			return snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: subvolume(t, filepath.Join(sub(t), "vol")), Dir: folder(t, filepath.Join(sub(t), "snaps"))}
		})
	})
	for name, c := range map[string]struct{ provider, on string }{
		"btrfs image":               {"btrfs", btrfs},
		"reflink on btrfs":          {"reflink", btrfs},
		"reflink on xfs":            {"reflink", xfs},
		"freeze of an image on xfs": {"freeze", xfs},
	} {
		t.Run(name, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
				dir := folder(t, filepath.Join(c.on, strings.ReplaceAll(t.Name(), "/", "-")))
				return snapshottest.Subject{Provider: provider(t, c.provider), Volume: image(t, filepath.Join(dir, "disk.img"), 4<<20), Image: true}
			})
		})
	}
	t.Run("reflink with a folder for clones", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			dir := folder(t, filepath.Join(xfs, strings.ReplaceAll(t.Name(), "/", "-")))
			return snapshottest.Subject{
				Provider: provider(t, "reflink"), Volume: image(t, filepath.Join(dir, "disk.img"), 4<<20),
				Dir: folder(t, filepath.Join(dir, "snaps")), Image: true,
			}
		})
	})
	t.Run("freeze on btrfs", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			return snapshottest.Subject{Provider: provider(t, "freeze"), Volume: subvolume(t, filepath.Join(sub(t), "vol"))}
		})
	})
	t.Run("freeze on ext4", func(t *testing.T) {
		snapshottest.Run(t, func(t *testing.T) snapshottest.Subject {
			return snapshottest.Subject{Provider: provider(t, "freeze"), Volume: folder(t, filepath.Join(ext4, strings.ReplaceAll(t.Name(), "/", "-"), "vol"))}
		})
	})
}

func TestTwoBeside(t *testing.T) {
	t.Parallel() // it waits for the disk
	testbed.Need(t, "btrfs")
	volume := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	snapshottest.TwoBeside(t, snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: volume}, 250)
}

// An instance with a tree on btrfs and images on btrfs and xfs.
func TestConsistency(t *testing.T) {
	t.Parallel() // it waits for the disk
	testbed.Need(t, "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	snapshottest.Consistency(t, 1, 200,
		snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: subvolume(t, filepath.Join(btrfs, "vol"))},
		snapshottest.Subject{Provider: provider(t, "btrfs"), Volume: image(t, filepath.Join(folder(t, btrfs+"/a"), "disk"), 1<<20), Image: true},
		snapshottest.Subject{Provider: provider(t, "reflink"), Volume: image(t, filepath.Join(folder(t, btrfs+"/b"), "disk"), 1<<20), Image: true, Atomic: true},
		snapshottest.Subject{Provider: provider(t, "reflink"), Volume: image(t, filepath.Join(xfs, "disk"), 1<<20), Image: true, Atomic: true},
	)
}

func TestDetect(t *testing.T) {
	testbed.Need(t, "btrfs", "ext4")
	btrfs, ext4 := testbed.Btrfs(t), testbed.Ext4(t)
	sub := subvolume(t, filepath.Join(btrfs, "sub"))
	plain := folder(t, filepath.Join(sub, "a", "plain"))
	nested := subvolume(t, filepath.Join(btrfs, "nested"))
	subvolume(t, filepath.Join(folder(t, filepath.Join(nested, "deep", "er")), "inner"))
	sibling := folder(t, filepath.Join(nested, "sibling"))
	mounted := subvolume(t, filepath.Join(btrfs, "mounted"))
	mount := folder(t, filepath.Join(mounted, "with space"))
	bind := folder(t, filepath.Join(btrfs, "bind"))
	for _, m := range [][]string{{"-t", "tmpfs", "none", mount}, {"--bind", plain, bind}} {
		command(t, append([]string{"mount"}, m...)...)
		t.Cleanup(func() { command(t, "umount", m[len(m)-1]) })
	}
	link := filepath.Join(ext4, "link")
	if err := os.Symlink(sub, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(ext4, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	snaps := folder(t, filepath.Join(btrfs, "snaps"))

	for _, c := range []struct {
		what, volume, dir, want string
		provider                string
		reason                  string // part of it, or of the error
		err                     error
	}{
		{what: "subvolume", volume: sub, provider: "btrfs", reason: "is a btrfs subvolume; snapshots go to " + btrfs},
		{what: "plain folder", volume: plain, want: "auto", provider: "btrfs", reason: "lies in the btrfs subvolume " + sub},
		{what: "link to it", volume: link, want: "btrfs", provider: "btrfs", reason: btrfs},
		{what: "asked for freeze", volume: sub, want: "freeze", provider: "freeze", reason: "asked for"},
		{what: "ext4", volume: ext4, provider: "freeze", reason: "lies on ext4"},
		{what: "btrfs on ext4", volume: ext4, want: "btrfs", err: snapshot.ErrUnsupported, reason: "lies on ext4"},
		{what: "nested", volume: nested, provider: "btrfs", reason: "is a btrfs subvolume"},
		{what: "nested elsewhere", volume: sibling, provider: "btrfs", reason: "lies in"},
		{what: "mount point inside", volume: mounted, provider: "freeze", reason: "with space"},
		{what: "mount point inside, btrfs", volume: mounted, want: "btrfs", err: snapshot.ErrNested, reason: "with space"},
		{what: "bind mount of a folder", volume: bind, provider: "freeze", reason: "bind mount"},
		{what: "root of the mount", volume: btrfs, provider: "freeze", reason: "not on the same btrfs"},
		{what: "folder for snapshots", volume: sub, dir: snaps, provider: "btrfs", reason: snaps},
		{what: "folder on another disk", volume: sub, dir: ext4, want: "btrfs", err: snapshot.ErrUnsupported, reason: "not on the same btrfs"},
		{what: "folder inside the volume", volume: sub, dir: plain, err: snapshot.ErrUsage, reason: "inside the volume"},
		{what: "no such volume", volume: sub + "x", err: os.ErrNotExist, reason: sub + "x"},
		{what: "an image on xfs", volume: image(t, filepath.Join(testbed.Xfs(t), "disk"), 1<<20), provider: "reflink", reason: "is an image on xfs"},
		{what: "an image on btrfs", volume: image(t, filepath.Join(sub, "disk"), 0), provider: "btrfs", reason: "lies in the btrfs subvolume " + sub},
		{what: "an image on btrfs, reflink asked for", volume: filepath.Join(sub, "disk"), want: "reflink", provider: "reflink", reason: "is an image on btrfs"},
		{what: "a folder, reflink asked for", volume: sub, want: "reflink", err: snapshot.ErrUnsupported, reason: "is a folder"},
		{what: "an image, folder on another disk", volume: filepath.Join(sub, "disk"), dir: ext4, provider: "freeze", reason: "on another file system"},
		{what: "an image on ext4", volume: file, provider: "freeze", reason: "lies on ext4"},
		{what: "a character device", volume: "/dev/null", err: snapshot.ErrUsage, reason: "neither a folder nor a file nor a block device"},
		{what: "relative", volume: "x", err: snapshot.ErrUsage, reason: "absolute"},
		{what: "unknown provider", volume: sub, want: "zfs", err: snapshot.ErrUsage, reason: `"zfs"`},
	} {
		p, reason, err := snapshot.Detect(t.Context(), snapshot.Request{Volume: c.volume, Dir: c.dir}, c.want)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.what, err, c.err)
			continue
		}
		if err != nil {
			reason = err.Error()
		} else if p.Name() != c.provider {
			t.Errorf("%s: chose %s (%s)", c.what, p.Name(), reason)
		}
		if !strings.Contains(reason, c.reason) || strings.Contains(reason, "\n") {
			t.Errorf("%s: reason %q lacks %q", c.what, reason, c.reason)
		}
	}
}

// Of many subvolumes inside, more than one answer of the kernel (255) holds, none
// is lost; and where one of their snapshots is gone, the view does not stand.
func TestManyNested(t *testing.T) {
	testbed.Need(t, "btrfs")
	vol := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	many := folder(t, filepath.Join(vol, "many"))
	for i := range 300 {
		path := filepath.Join(many, fmt.Sprint(i))
		must(t, snapshot.MakeFolder(path))
		must(t, os.WriteFile(path+"/file", []byte(fmt.Sprint(i)), 0o600))
	}
	p := provider(t, "btrfs")
	snap, err := p.Create(t.Context(), snapshot.Request{Volume: vol, Host: "h", Job: "j", Name: "v"})
	must(t, err)
	inside, err := snapshot.Nested(snap.Ref)
	must(t, err)
	for i := range 300 {
		at := inside[fmt.Sprint("many/", i)]
		if got, err := os.ReadFile(at + "/file"); string(got) != fmt.Sprint(i) {
			t.Errorf("subvolume %d holds %q, %v", i, got, err)
		}
	}
	if of, err := p.Comparable(vol); of || err != nil {
		t.Errorf("worth keeping as a base: %v, %v", of, err)
	}
	if _, err := p.Changed(t.Context(), snap.Base(), snap); !errors.Is(err, snapshot.ErrBase) {
		t.Errorf("compared: %v", err)
	}
	command(t, "btrfs", "subvolume", "delete", inside["many/7"])
	if ok, err := p.Stands(t.Context(), snap.Ref); ok || err != nil {
		t.Errorf("stands without a part: %v, %v", ok, err)
	}
	must(t, p.Remove(t.Context(), snap.Ref))
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(vol), snapshot.SnapshotFolder)); !os.IsNotExist(err) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The remnants of a view after a crash are found and removed, also when the snapshot of
// the volume itself is not there.
func TestHalfMadeNested(t *testing.T) {
	testbed.Need(t, "btrfs")
	vol := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	subvolume(t, filepath.Join(vol, "inside"))
	p := provider(t, "btrfs")
	req := snapshot.Request{Volume: vol, Host: "h", Job: "j", Name: "v"}
	for _, gone := range []string{"", ".nested/paths"} {
		snap, err := p.Create(t.Context(), req)
		must(t, err)
		if gone == "" {
			command(t, "btrfs", "subvolume", "delete", snap.Ref.Path)
		} else {
			must(t, os.Remove(snap.Ref.Path+gone))
		}
		if ok, err := p.Stands(t.Context(), snap.Ref); ok || err != nil {
			t.Errorf("without %q: stands: %v, %v", gone, ok, err)
		}
		refs, err := p.Leftovers(t.Context(), req)
		if err != nil || !slices.Equal(refs, []snapshot.Ref{snap.Ref}) {
			t.Errorf("without %q: leftovers %v, %v", gone, refs, err)
		}
		must(t, p.Remove(t.Context(), snap.Ref))
		if _, err := os.Lstat(filepath.Dir(snap.Ref.Path)); !os.IsNotExist(err) {
			t.Errorf("without %q: the folder was left", gone)
		}
	}
}

func TestRemoveTouchesOnlyOurs(t *testing.T) {
	testbed.Need(t, "btrfs")
	root := testbed.Btrfs(t)
	vol := subvolume(t, filepath.Join(root, "vol"))
	p := provider(t, "btrfs")
	snap, err := p.Create(t.Context(), snapshot.Request{Volume: vol, Host: "h", Job: "j", Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(snap.Ref.Path)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("snapshot folder: %v, %v", st.Mode(), err)
	}
	foreign := map[string]func(path string){
		"hf.h.plain.v":    func(path string) { folder(t, path) },
		"hf.h.file.v":     func(path string) { command(t, "touch", path) },
		"hf.h.link.v":     func(path string) { command(t, "ln", "-s", snap.Ref.Path, path) },
		"hf.h.writable.v": func(path string) { command(t, "btrfs", "subvolume", "snapshot", vol, path) },
		"hf.h.nosnap.v":   func(path string) { subvolume(t, path); command(t, "btrfs", "property", "set", path, "ro", "true") },
		"hf.h.a.b.v":      func(path string) { command(t, "btrfs", "subvolume", "snapshot", "-r", vol, path) },
		"hf.h.odd job.v":  func(path string) { command(t, "btrfs", "subvolume", "snapshot", "-r", vol, path) },
		"hf.h.j":          func(path string) { command(t, "btrfs", "subvolume", "snapshot", "-r", vol, path) },
		"other":           func(path string) { command(t, "btrfs", "subvolume", "snapshot", "-r", vol, path) },
	}
	for name, make := range foreign {
		make(filepath.Join(dir, name))
	}
	// Our name, but outside of a snapshot folder.
	outside := filepath.Join(root, "hf.h.j.v")
	command(t, "btrfs", "subvolume", "snapshot", "-r", vol, outside)

	refs, err := p.Leftovers(t.Context(), snapshot.Request{Volume: vol, Host: "h"})
	if err != nil || !slices.Equal(refs, []snapshot.Ref{snap.Ref}) {
		t.Errorf("leftovers: %v, %v", refs, err)
	}
	paths := []string{outside, vol, dir}
	for name := range foreign {
		paths = append(paths, filepath.Join(dir, name))
	}
	for _, path := range paths {
		if err := p.Remove(t.Context(), snapshot.Ref{Provider: "btrfs", Path: path, Volume: vol}); !errors.Is(err, snapshot.ErrForeign) || !strings.Contains(err.Error(), path) {
			t.Errorf("remove %s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
	for _, path := range []string{"", "x", dir + "/../hf.h.j.v"} {
		if err := p.Remove(t.Context(), snapshot.Ref{Provider: "btrfs", Path: path}); !errors.Is(err, snapshot.ErrUsage) {
			t.Errorf("remove %q: %v", path, err)
		}
	}
	if err := p.Remove(t.Context(), snap.Ref); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); err != nil {
		t.Errorf("the folder holds foreign things and must stay: %v", err)
	}
}

// A snapshot folder that someone else put there is not used: its owner could swap its content.
func TestForeignSnapshotFolder(t *testing.T) {
	testbed.Need(t, "btrfs")
	root := testbed.Btrfs(t)
	vol := subvolume(t, filepath.Join(root, "vol"))
	elsewhere := folder(t, filepath.Join(root, "elsewhere"))
	dir := filepath.Join(root, snapshot.SnapshotFolder)
	p := provider(t, "btrfs")
	req := snapshot.Request{Volume: vol, Host: "h", Job: "j", Name: "v"}

	folder(t, dir)
	if err := unix.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), req); !errors.Is(err, snapshot.ErrForeign) {
		t.Errorf("folder of another user: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), req); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("link: %v", err)
	}
	if left, _ := os.ReadDir(elsewhere); len(left) != 0 {
		t.Errorf("made through the link: %v", left)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	folder(t, dir) // 0755, ours: closed to others before use
	if _, err := p.Create(t.Context(), req); err != nil {
		t.Errorf("create: %v", err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := p.Create(t.Context(), req); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("second create: %v", err)
	}
	// The volume goes away, its snapshot is still found.
	command(t, "btrfs", "subvolume", "delete", vol)
	refs, err := p.Leftovers(t.Context(), snapshot.Request{Volume: vol, Host: "h"})
	if err != nil || len(refs) != 1 {
		t.Fatalf("leftovers of a volume that is gone: %v, %v", refs, err)
	}
	if err := p.Remove(t.Context(), refs[0]); err != nil {
		t.Error(err)
	}
}

// TestComparable: snapshots are worth keeping as bases where the provider finds the changes since.
func TestComparable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ tree, image bool }{
		snapshot.NameBtrfs: {true, true}, snapshot.NameReflink: {true, true}, snapshot.NameFreeze: {}, snapshot.NameFsFreeze: {},
		snapshot.NameLVMThin: {}, snapshot.NameLVMClassic: {}, // of a device alone: see TestLVM
	} {
		p, err := snapshot.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]bool{dir: want.tree, file: want.image} {
			got, err := p.Comparable(path)
			if err != nil || got != want {
				t.Errorf("%s of %s: %v, %v", name, path, got, err)
			}
			kind, err := snapshot.KindOf(path)
			if err != nil || got && p.Costs(kind).Changes == "" {
				t.Errorf("%s of %s: a base is of use, and Costs does not tell a person how: %v", name, path, err)
			}
		}
		if _, err := p.Comparable(filepath.Join(dir, "missing")); err == nil {
			t.Errorf("%s of a volume that is not there", name)
		}
	}
}
