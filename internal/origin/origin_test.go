package origin_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/origin"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var sample = origin.Mark{Backup: "b7", Seq: 7, Vault: "v", Tenant: "acme", Instance: "phone-1", Volume: "data", Host: "h"}

// volumes are a folder and an image on each kind of file system that keeps marks.
func volumes(t *testing.T, do func(t *testing.T, path string)) {
	testbed.Need(t, "btrfs", "xfs")
	for name, place := range map[string]func(testing.TB) string{"btrfs": testbed.Btrfs, "xfs": testbed.Xfs, "ext4": testbed.Ext4} {
		t.Run(name, func(t *testing.T) {
			at := place(t)
			folder, image := filepath.Join(at, "folder"), filepath.Join(at, "image")
			must(t, errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(image, []byte("disk"), 0o600)))
			t.Run("folder", func(t *testing.T) { do(t, folder) })
			t.Run("image", func(t *testing.T) { do(t, image) })
		})
	}
}

// TestMarkTellsAVolumeFromItsCopies: it goes along with a rename, and a copy has another place.
func TestMarkTellsAVolumeFromItsCopies(t *testing.T) {
	volumes(t, func(t *testing.T, path string) {
		if _, err := origin.Read(path); !errors.Is(err, origin.ErrNoMark) {
			t.Errorf("before: %v", err)
		}
		written, err := origin.Write(path, sample)
		must(t, err)
		got, err := origin.Read(path)
		must(t, err)
		want := sample
		want.Version, want.At = got.Version, written.At
		if got != want || !got.At.Same(written.At) {
			t.Errorf("%+v, want %+v", got, want)
		}
		moved := path + "-moved"
		must(t, os.Rename(path, moved))
		at, err := origin.PlaceOf(moved)
		must(t, err)
		if !at.Same(got.At) {
			t.Errorf("after a rename %+v, marked at %+v", at, got.At)
		}
		must(t, exec.Command("cp", "-a", "--preserve=all", moved, path).Run())
		copied, err := origin.Read(path)
		must(t, err)
		at, err = origin.PlaceOf(path)
		must(t, err)
		if copied != got || at.Same(copied.At) {
			t.Errorf("the copy at %+v has the mark %+v", at, copied)
		}
		newer := sample
		newer.Backup, newer.Seq = "b8", 8
		_, err = origin.Write(moved, newer)
		must(t, err)
		if got, err = origin.Read(moved); err != nil || got.Backup != "b8" || got.Seq != 8 {
			t.Errorf("marked again: %+v, %v", got, err)
		}
		must(t, errors.Join(origin.Remove(moved), origin.Remove(moved)))
		if _, err := origin.Read(moved); !errors.Is(err, origin.ErrNoMark) {
			t.Errorf("removed: %v", err)
		}
	})
}

// TestMarkOnASealedRoot: an immutable root can be marked, and is immutable afterwards.
func TestMarkOnASealedRoot(t *testing.T) {
	at := testbed.Ext4(t)
	folder := filepath.Join(at, "folder")
	must(t, os.Mkdir(folder, 0o700))
	must(t, exec.Command("chattr", "+i", folder).Run())
	defer func() { must(t, exec.Command("chattr", "-i", folder).Run()) }()
	_, err := origin.Write(folder, sample)
	must(t, err)
	if got, err := origin.Read(folder); err != nil || got.Backup != "b7" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); !errors.Is(err, unix.EPERM) {
		t.Errorf("the folder is no longer immutable: %v", err)
	}
}

// TestMarkThatIsNone: a damaged mark, or a path that can't bear a mark, is reported as such.
func TestMarkThatIsNone(t *testing.T) {
	at := testbed.Ext4(t)
	folder := filepath.Join(at, "folder")
	must(t, os.Mkdir(folder, 0o700))
	for name, value := range map[string]string{
		"empty": "", "no JSON": "{", "another version": `{"version":9}`, "nothing in it": `{"version":1}`,
		"too long": strings.Repeat("x", 3000),
	} {
		must(t, unix.Setxattr(folder, origin.Attribute, []byte(value), 0))
		if m, err := origin.Read(folder); !errors.Is(err, origin.ErrDamaged) || m != (origin.Mark{}) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := origin.Write(folder, origin.Mark{Backup: "b"}); !errors.Is(err, origin.ErrDamaged) {
		t.Errorf("an incomplete mark is written: %v", err)
	}
	if _, err := origin.Read(filepath.Join(at, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	pipe, link := filepath.Join(at, "pipe"), filepath.Join(at, "link")
	must(t, errors.Join(unix.Mkfifo(pipe, 0o600), os.Symlink(folder, link)))
	if _, err := origin.Write(pipe, sample); !errors.Is(err, origin.ErrNotKept) {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := origin.Write(link, sample); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
	if err := origin.Remove(pipe); err != nil {
		t.Errorf("no mark is an error: %v", err)
	}
}

// TestMarkWithoutAttributes: a file system that has none says so.
func TestMarkWithoutAttributes(t *testing.T) {
	if _, err := origin.Read("/proc/sys"); !errors.Is(err, origin.ErrNotKept) {
		t.Errorf("read: %v", err)
	}
	if _, err := origin.Write("/proc/sys", sample); !errors.Is(err, origin.ErrNotKept) {
		t.Errorf("write: %v", err)
	}
}

// TestWalkLeavesTheMarkOut: no entry has it, other trusted attributes stay, and a tree that
// names it as an attribute gets no mark by that.
func TestWalkLeavesTheMarkOut(t *testing.T) {
	at := testbed.Ext4(t)
	folder, other := filepath.Join(at, "folder"), filepath.Join(at, "other")
	must(t, errors.Join(os.Mkdir(folder, 0o700), os.Mkdir(other, 0o700)))
	_, err := origin.Write(folder, sample)
	must(t, err)
	must(t, unix.Setxattr(folder, "trusted.of-the-tenant", []byte("x"), 0))
	root, err := tree.OpenRoot(folder)
	must(t, err)
	defer root.Close()
	var seen *tree.Entry
	must(t, root.Walk(t.Context(), tree.WalkOptions{}, func(e *tree.Entry) error { seen = e; return nil }))
	if len(seen.Xattrs) != 1 || seen.Xattrs[0].Name != "trusted.of-the-tenant" || !bytes.Equal(seen.Xattrs[0].Value, []byte("x")) {
		t.Errorf("attributes %+v", seen.Xattrs)
	}
	var told []string
	target, err := tree.NewTarget(other, func(w tree.Warning) { told = append(told, w.String()) })
	must(t, err)
	defer target.Close()
	hostile := tree.Entry{Kind: tree.Dir, Mode: 0o700, Xattrs: []tree.Xattr{{Name: origin.Attribute, Value: []byte("x")}}}
	_, err = target.Create(&hostile)
	must(t, err)
	must(t, target.Finish())
	if _, err := origin.Read(other); !errors.Is(err, origin.ErrNoMark) || len(told) != 1 || !strings.Contains(told[0], "Holdfast's own") {
		t.Errorf("%v, told %q", err, told)
	}
}
