package restore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/testbed"
)

// lacking are file systems that lack kinds of renames: the kernel answers EINVAL to a flag that a
// file system does not know.
var lacking = map[string]uint{
	"no exchange": unix.RENAME_EXCHANGE,
	"no flags":    unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE,
}

// TestNoExchangeReplacesNoImage: where the file system can't exchange, a volume is put where
// nothing is, or an empty folder, and nowhere else. rename(2) by itself would put an image over the
// old image, which may be newer than every backup.
func TestNoExchangeReplacesNoImage(t *testing.T) {
	for name, flags := range lacking {
		t.Run(name, func(t *testing.T) {
			restore.LackRenames(t, flags)
			for _, image := range []bool{true, false} {
				dir := testbed.Dir(t)
				write := func(path, text string) {
					t.Helper()
					if !image {
						must(t, os.Mkdir(path, 0o755))
						path = filepath.Join(path, "file")
					}
					must(t, os.WriteFile(path, []byte(text), 0o600))
				}
				read := func(path string) string {
					t.Helper()
					if !image {
						path = filepath.Join(path, "file")
					}
					return content(t, path)
				}
				p, err := restore.PlaceOf(filepath.Join(dir, "volume"), "job1", "volume")
				must(t, err)
				write(p.Target, "old")
				write(p.Stage, "new")
				p.Tree, err = restore.Identify(p.Stage)
				must(t, err)
				if err := p.Put(); !errors.Is(err, restore.ErrPlace) {
					t.Errorf("image %v: put over the old volume: %v", image, err)
				}
				if read(p.Target) != "old" || read(p.Stage) != "new" {
					t.Errorf("image %v: the old volume is %q, the new one %q", image, read(p.Target), read(p.Stage))
				}

				// the old volume is taken out, and brought back, as often as is asked for
				p.Old, err = restore.Identify(p.Target)
				must(t, err)
				p.Aside = restore.AsideOf(p.Target, "job1", "volume")
				must(t, errors.Join(p.TakeOut(), p.TakeOut(), p.Return(), p.Return(), p.TakeOut()))
				must(t, errors.Join(p.Put(), p.Put(), p.Back(), p.Back(), p.Put()))
				if read(p.Target) != "new" || read(p.Aside) != "old" || listing(t, dir) != ".holdfast-kept-job1-volume volume" {
					t.Errorf("image %v: %s", image, listing(t, dir))
				}
				if err := p.Return(); !errors.Is(err, restore.ErrPlace) || read(p.Target) != "new" {
					t.Errorf("image %v: brought back over the new volume: %v", image, err)
				}
			}
		})
	}
}

// TestTwoNamesOfOneImage: a crash between the two steps of a rename leaves an image with both
// names. The same call again leaves the name that the image is to have, whichever way it went.
func TestTwoNamesOfOneImage(t *testing.T) {
	restore.LackRenames(t, lacking["no flags"])
	dir := testbed.Dir(t)
	p, err := restore.PlaceOf(filepath.Join(dir, "volume"), "job1", "volume")
	must(t, err)
	must(t, os.WriteFile(p.Stage, []byte("new"), 0o600))
	p.Tree, err = restore.Identify(p.Stage)
	must(t, err)
	p.Old, p.Aside = p.Tree, restore.AsideOf(p.Target, "job1", "volume")
	for _, c := range []struct {
		name, from, to string
		do             func() error
	}{
		{"put", p.Stage, p.Target, p.Put},
		{"back", p.Target, p.Stage, p.Back},
		{"set aside", p.Stage, p.Aside, p.SetAside},
		{"return", p.Aside, p.Target, p.Return},
		{"take out", p.Target, p.Aside, p.TakeOut},
	} {
		must(t, os.Link(c.from, c.to))
		must(t, c.do())
		if got := listing(t, dir); got != filepath.Base(c.to) || content(t, c.to) != "new" {
			t.Errorf("%s: there is %s", c.name, got)
		}
	}
}

// TestFileBesideIsNoTwin: another file with the second name stays.
func TestFileBesideIsNoTwin(t *testing.T) {
	dir := testbed.Dir(t)
	p, err := restore.PlaceOf(filepath.Join(dir, "volume"), "job1", "volume")
	must(t, err)
	must(t, errors.Join(os.WriteFile(p.Target, []byte("new"), 0o600), os.WriteFile(p.Stage, []byte("old"), 0o600)))
	p.Tree, err = restore.Identify(p.Target)
	must(t, err)
	must(t, p.Put())
	if content(t, p.Stage) != "old" || content(t, p.Target) != "new" {
		t.Errorf("there is %s", listing(t, dir))
	}
}

// latecomer calls meanwhile before each read of a pack.
type latecomer struct {
	obs.Store
	meanwhile func()
}

func (s *latecomer) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	if s.meanwhile != nil && strings.Contains(key, "/packs/") {
		s.meanwhile()
	}
	return s.Store.ReadAt(ctx, key, b, off)
}

// TestDestinationThatAppears: a file or a folder that somebody makes at the destination while a
// restore is under way stays as it is, and the restore fails.
func TestDestinationThatAppears(t *testing.T) {
	dir := testbed.Dir(t)
	image, folder, dest := filepath.Join(dir, "disk.img"), filepath.Join(dir, "folder"), filepath.Join(dir, "dest")
	must(t, errors.Join(os.WriteFile(image, bytes.Repeat([]byte("image "), 10_000), 0o600), os.Mkdir(folder, 0o755)))
	must(t, os.WriteFile(filepath.Join(folder, "file"), bytes.Repeat([]byte("file "), 10_000), 0o600))
	st := &latecomer{Store: obs.NewMemory()}
	v := newVault(t, st)
	for _, src := range []string{image, folder} {
		ref := backUp(t, v, src)
		for _, appears := range []string{"file", "folder"} {
			path := dest
			if appears == "folder" {
				path = filepath.Join(dest, "late")
			}
			st.meanwhile = func() {
				must(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("made meanwhile"), 0o600)))
			}
			_, err := restore.Run(t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
			st.meanwhile = nil
			if !errors.Is(err, restore.ErrTargetExists) || content(t, path) != "made meanwhile" {
				t.Errorf("%s, and a %s appears: %v", filepath.Base(src), appears, err)
			}
			must(t, os.RemoveAll(dest))
			if got := listing(t, dir); got != "disk.img folder" {
				t.Errorf("left: %s", got)
			}
		}
	}
}
