package location_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/location"
	"holdfast/internal/testbed"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestStrict: a path with a link, or below a folder that somebody else than root can
// write to, is refused with the remedy. The object at the path may be anybody's.
func TestStrict(t *testing.T) {
	testbed.Need(t, "root")
	for name, c := range map[string]struct {
		spoil func(dir string) error // dir has parent/volume
		want  string
	}{
		"as it should be":        {func(string) error { return nil }, ""},
		"a volume of its tenant": {func(dir string) error { return os.Chown(dir+"/parent/volume", 1000, 1000) }, ""},
		"nothing there yet":      {func(dir string) error { return os.Remove(dir + "/parent/volume") }, ""},
		"a group of root":        {func(dir string) error { return os.Chmod(dir+"/parent", 0o775) }, ""},
		"the tenant's parent":    {func(dir string) error { return os.Chown(dir+"/parent", 1000, 0) }, "can be written by its owner, user 1000"},
		"everybody's parent":     {func(dir string) error { return os.Chmod(dir+"/parent", 0o777) }, "can be written by everybody (mode 0777)"},
		"a folder further up":    {func(dir string) error { return os.Chown(dir, 1000, 0) }, "can be written by its owner, user 1000"},
		"sticky, of root":        {func(dir string) error { return os.Chmod(dir+"/parent", 0o777|os.ModeSticky) }, ""},
		"sticky, nothing there": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/parent/volume"), os.Chmod(dir+"/parent", 0o777|os.ModeSticky))
		}, "can be written by everybody"},
		"sticky, of the tenant": {func(dir string) error {
			return errors.Join(os.Chown(dir+"/parent/volume", 1000, 0), os.Chmod(dir+"/parent", 0o777|os.ModeSticky))
		}, "everybody (mode 1777)"},
		"a group of others": {func(dir string) error {
			return errors.Join(os.Chown(dir+"/parent", 0, 1000), os.Chmod(dir+"/parent", 0o770))
		}, "can be written by group 1000"},
		"a link for the volume": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/parent/volume"), os.Symlink("/etc", dir+"/parent/volume"))
		}, "write the real path: /etc"},
		"a link for the parent": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/parent", dir+"/p"), os.Symlink("p", dir+"/parent"))
		}, "/p/volume"},
		"a link that leads away": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/parent/volume"), os.Symlink("nowhere", dir+"/parent/volume"))
		}, "leads nowhere"},
		"a file for the parent": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/parent"), os.WriteFile(dir+"/parent", nil, 0o600))
		}, ""},
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "parent", "volume"), 0o755))
		must(t, c.spoil(dir))
		_, err := location.Strict(filepath.Join(dir, "parent", "volume"))
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, location.ErrUnsafe) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestWithin: two paths to one location are recognized by their objects, and not by their spelling.
func TestWithin(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"a/volume/sub", "a/volume-2", "whole", "part"} {
		must(t, os.MkdirAll(in(d), 0o755))
	}
	must(t, os.WriteFile(in("a/image"), nil, 0o600))
	must(t, os.Link(in("a/image"), in("hard")))
	must(t, os.Symlink(in("a"), in("link")))
	for from, to := range map[string]string{"a": "whole", "a/volume/sub": "part"} {
		must(t, unix.Mount(in(from), in(to), "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(t, unix.Unmount(in(to), 0)) })
	}
	for _, c := range []struct {
		inner, outer string
		within       bool
	}{
		{"a/volume", "a/volume", true},
		{"a/volume/sub", "a/volume", true},
		{"a/volume-2", "a/volume", false},
		{"a/volume", "a/volume/sub", false},
		{"whole/volume", "a/volume", true},
		{"whole/volume/sub", "a/volume", true},
		{"part", "a/volume", true}, // a bind mount of a part, of which no folder above tells
		{"part/new/file", "a/volume", true},
		{"part", "a/volume-2", false},
		{"a/volume/new/file", "whole/volume", true},
		{"link/volume/key", "a/volume", true},
		{"hard", "a/image", true},
		{"a/image", "hard", true},
	} {
		inner, err := location.Of(in(c.inner))
		must(t, err)
		outer, err := location.Of(in(c.outer))
		must(t, err)
		if got := inner.Within(outer); got != c.within {
			t.Errorf("%s within %s: %v, want %v (%+v, %+v)", c.inner, c.outer, got, c.within, inner, outer)
		}
	}
}

// TestDevices: below /dev a link to a block device is a name as good as any.
func TestDevices(t *testing.T) {
	testbed.Need(t, "root")
	for end, want := range map[string]bool{"/dev/loop0": true, "/etc": false} {
		if _, err := os.Stat(end); err != nil {
			continue
		}
		link := "/dev/holdfast-test-" + filepath.Base(end)
		_ = os.Remove(link)
		must(t, os.Symlink(end, link))
		_, err := location.Strict(link)
		must(t, os.Remove(link))
		if (err == nil) != want {
			t.Errorf("a link below /dev to %s: %v", end, err)
		}
	}
}
