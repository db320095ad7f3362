package restore_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// replacedAt makes a folder, the tree that was put into its place, and the old one at the stage.
func replacedAt(t *testing.T, dir string) restore.Place {
	t.Helper()
	target := filepath.Join(dir, "data")
	p, err := restore.PlaceOf(target, "job1", "data")
	must(t, err)
	must(t, errors.Join(os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(target, "file"), []byte("old"), 0o600)))
	must(t, errors.Join(os.Mkdir(p.Stage, 0o755), os.WriteFile(filepath.Join(p.Stage, "file"), []byte("new"), 0o600)))
	p.Tree, err = restore.Identify(p.Stage)
	must(t, err)
	must(t, p.Put())
	p.Old, err = restore.Identify(p.Stage)
	must(t, err)
	p.Aside = restore.AsideOf(target, "job1", "data")
	return p
}

// TestSetAside: the old tree is renamed, put back in its turn, and removed, each
// step twice, on each file system, also where the root of the tree is immutable.
func TestSetAside(t *testing.T) {
	for _, kind := range []string{"folder", "ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testbed.Dir(t)
			if kind != "folder" {
				testbed.Need(t, "root", kind)
				dir = filepath.Join(testbed.Filesystem(t, kind, 512<<20), "volumes")
				must(t, os.Mkdir(dir, 0o700))
			}
			p := replacedAt(t, dir)
			if kind != "folder" {
				if out, err := exec.Command("chattr", "+i", p.Stage).CombinedOutput(); err != nil {
					t.Fatalf("chattr: %v: %s", err, out)
				}
			}
			for range 2 {
				must(t, p.SetAside())
				if at, err := p.Lies(); err != nil || at != p.Aside || content(t, filepath.Join(at, "file")) != "old" {
					t.Fatalf("it lies at %q, %v", at, err)
				}
			}
			if got := listing(t, dir); got != ".holdfast-kept-job1-data data" {
				t.Errorf("there is %s", got)
			}

			// a put-back is a put of the kept tree
			back := restore.Place{Target: p.Target, Stage: p.Aside, Tree: p.Old}
			must(t, back.Put())
			must(t, back.Put())
			if content(t, filepath.Join(p.Target, "file")) != "old" || content(t, filepath.Join(p.Aside, "file")) != "new" {
				t.Error("the put-back did not exchange")
			}
			must(t, back.Back())
			if content(t, filepath.Join(p.Target, "file")) != "new" {
				t.Error("the put-back was not undone")
			}

			gone := restore.Place{Target: p.Target, Stage: p.Aside, Old: p.Old}
			must(t, gone.Discard())
			must(t, gone.Discard())
			if at, err := p.Lies(); err != nil || at != "" || listing(t, dir) != "data" {
				t.Errorf("it lies at %q, %v; there is %s", at, err, listing(t, dir))
			}
		})
	}
}

// TestAsideKnowsItsTree: nothing but that very tree is renamed,
// brought back or removed, and nothing is put over something else.
func TestAsideKnowsItsTree(t *testing.T) {
	dir := t.TempDir()
	p := replacedAt(t, dir)
	must(t, os.Mkdir(p.Aside, 0o700))
	if err := p.SetAside(); !errors.Is(err, restore.ErrPlace) {
		t.Errorf("over something else: %v", err)
	}
	must(t, os.Remove(p.Aside))
	must(t, errors.Join(os.Rename(p.Stage, p.Stage+".mine"), os.Mkdir(p.Stage, 0o700)))
	if err := p.SetAside(); !errors.Is(err, restore.ErrNotKept) {
		t.Errorf("of another tree: %v", err)
	}
	if err := p.Discard(); !errors.Is(err, restore.ErrPlace) {
		t.Errorf("removal of another tree: %v", err)
	}
	must(t, errors.Join(os.Remove(p.Stage), os.Rename(p.Stage+".mine", p.Stage)))
	must(t, p.SetAside())
	if err := p.Return(); !errors.Is(err, restore.ErrPlace) {
		t.Errorf("brought back over the new tree: %v", err)
	}
	must(t, os.RemoveAll(p.Target))
	for range 2 {
		must(t, p.Return())
	}
	for range 2 {
		must(t, p.TakeOut())
	}
	if got := listing(t, dir); got != ".holdfast-kept-job1-data" {
		t.Errorf("there is %s", got)
	}
	for _, stray := range []restore.Place{
		{Target: p.Target, Stage: p.Stage, Old: p.Old, Aside: filepath.Join(dir, "elsewhere")},
		{Target: p.Target, Stage: p.Stage, Old: p.Old, Aside: filepath.Join(dir, "below", ".holdfast-kept-job1-data")},
		{Target: p.Target, Stage: p.Stage, Aside: p.Aside},
	} {
		if err := stray.SetAside(); !errors.Is(err, restore.ErrPlace) {
			t.Errorf("%+v: %v", stray, err)
		}
	}
}

// TestDiscardEmpty: a folder that was empty is removed only while it is.
func TestDiscardEmpty(t *testing.T) {
	dir := t.TempDir()
	p, err := restore.PlaceOf(filepath.Join(dir, "data"), "job1", "data")
	must(t, err)
	must(t, os.Mkdir(p.Stage, 0o700))
	p.Old, err = restore.Identify(p.Stage)
	must(t, err)
	p.Empty = true
	must(t, os.WriteFile(filepath.Join(p.Stage, "late"), nil, 0o600))
	if err := p.Discard(); !errors.Is(err, restore.ErrPlace) || listing(t, p.Stage) != "late" {
		t.Errorf("%v", err)
	}
	must(t, os.Remove(filepath.Join(p.Stage, "late")))
	must(t, p.Discard())
	must(t, p.Discard())
	if got := listing(t, dir); got != "" {
		t.Errorf("there is %s", got)
	}
}

// TestMeasureTree: a count follows no link, enters no mount, counts a file with two names once, and
// tells each change.
func TestMeasureTree(t *testing.T) {
	dir := filepath.Join(testbed.Dir(t), "tree")
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	file := filepath.Join(dir, "sub", "file")
	must(t, errors.Join(os.WriteFile(file, []byte("content"), 0o600), os.Link(file, filepath.Join(dir, "name")), os.Symlink("/etc", filepath.Join(dir, "link"))))
	newest := time.Date(2040, 1, 2, 3, 4, 5, 6, time.UTC)
	must(t, os.Chtimes(file, newest, newest))
	first, err := restore.MeasureTree(t.Context(), dir)
	must(t, err)
	if first.Files != 1 || first.Bytes != 7 || first.Entries != 4 || !first.Newest.Equal(newest) || !first.Whole {
		t.Errorf("%+v", first)
	}
	if again, err := restore.MeasureTree(t.Context(), dir); err != nil || !again.Same(first) {
		t.Errorf("%+v, %v", again, err)
	}
	must(t, os.Rename(dir, dir+"2"))
	dir += "2"
	file = filepath.Join(dir, "sub", "file")
	if again, err := restore.MeasureTree(t.Context(), dir); err != nil || !again.Same(first) {
		t.Errorf("after it was renamed: %+v, %v", again, err)
	}
	// the size and the times of modification as before
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("CONTENT")
	must(t, errors.Join(err, f.Close(), os.Chtimes(file, newest, newest)))
	if again, err := restore.MeasureTree(t.Context(), dir); err != nil || again.Same(first) {
		t.Errorf("after a write: %+v, %v", again, err)
	}
	if none, err := restore.MeasureTree(t.Context(), filepath.Join(dir, "nothing", "there")); err != nil || !none.Whole || none.Entries != 0 {
		t.Errorf("nothing: %+v, %v", none, err)
	}
	image := filepath.Join(dir, "image")
	must(t, errors.Join(os.WriteFile(image, []byte("head"), 0o600), os.Truncate(image, 1<<30)))
	if m, err := restore.MeasureTree(t.Context(), image); err != nil || m.Files != 1 || m.Bytes > 1<<20 || !m.Whole {
		t.Errorf("an image: %+v, %v", m, err)
	}
	if os.Getuid() == 0 {
		must(t, os.Remove(image))
		must(t, unix.Mount("none", filepath.Join(dir, "sub"), "tmpfs", 0, ""))
		t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "sub"), unix.MNT_DETACH) })
		must(t, os.WriteFile(filepath.Join(dir, "sub", "other"), make([]byte, 1000), 0o600))
		if m, err := restore.MeasureTree(t.Context(), dir); err != nil || m.Bytes != 7 || m.Whole {
			t.Errorf("with a mount in it: %+v, %v", m, err)
		}
	}
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("more-", i)), nil, 0o600))
	}
	if m, err := restore.MeasureAtMost(t.Context(), dir, 10); err != nil || m.Entries != 10 || m.Whole || m.Same(m) {
		t.Errorf("bounded: %+v, %v", m, err)
	}
	if !strings.HasPrefix(filepath.Base(restore.AsideOf(dir, "j", "v")), ".holdfast-kept-j-v") {
		t.Error("the name")
	}
}
