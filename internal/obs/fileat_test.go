package obs_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// TestFileMarker: a folder is a store only with the marker that
// Create makes, which is no object of the store.
func TestFileMarker(t *testing.T) {
	dir := t.TempDir()
	url := "file://" + dir
	_, err := obs.Open(t.Context(), url, obs.Options{Retry: &once})
	fileClass(t, "open without a marker", err, obs.ErrNoMarker, "mounted")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a failed Open left %v, %v", left, err)
	}
	for range 2 { // the second finds the marker
		s := open(t, url, obs.Options{Create: true, Retry: &once})
		if got := names(t, s); len(got) > 0 {
			t.Errorf("a new store lists %q", got)
		}
		if _, err := s.Stat(t.Context(), ".holdfast-store"); !errors.Is(err, obs.ErrUsage) {
			t.Errorf("the marker as an object: %v, want ErrUsage", err)
		}
	}
	open(t, url, obs.Options{Retry: &once})
	marker := filepath.Join(dir, ".holdfast-store")
	for what, put := range map[string]func() error{
		"a folder": func() error { return os.Mkdir(marker, 0o700) },
		"a link":   func() error { return os.Symlink("elsewhere", marker) },
	} {
		if err := errors.Join(os.Remove(marker), put()); err != nil {
			t.Fatal(err)
		}
		if _, err := obs.Open(t.Context(), url, obs.Options{Retry: &once}); !errors.Is(err, obs.ErrNoMarker) {
			t.Errorf("%s in the place of the marker: %v, want ErrNoMarker", what, err)
		}
	}
}

// TestFileUnmounted: a store says so while its disk is not mounted, writes nothing into
// the mount point, and goes on when the disk is back. A store that is already open
// notices that its disk was detached.
func TestFileUnmounted(t *testing.T) {
	d := testbed.NewPowerDisk(t, "ext4", 64<<20)
	dir := filepath.Join(d.Point, "backups")
	url := "file://" + dir
	open(t, url, obs.Options{Create: true})
	early := open(t, url, obs.Options{Later: true, Retry: &once})
	if err := early.Put(t.Context(), "a/1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	away := func(what string, s obs.Store, class error) {
		t.Helper()
		_, stat := s.Stat(t.Context(), "a/1")
		_, read := s.ReadAt(t.Context(), "a/1", make([]byte, 3), 0)
		errs := map[string]error{
			"stat": stat, "read": read, "put": s.Put(t.Context(), "a/2", []byte("two")), "put new": s.PutNew(t.Context(), "a/3", []byte("three")),
			"delete": s.Delete(t.Context(), "a/1"),
		}
		for _, err := range s.List(t.Context(), "") {
			errs["list"] = err
		}
		if len(errs) != 6 {
			t.Errorf("%s: the list of a store whose disk is away gave no error", what)
		}
		for op, err := range errs {
			if !errors.Is(err, class) || errors.Is(err, obs.ErrNotFound) {
				t.Errorf("%s, %s: %v, want %v", what, op, err, class)
			}
		}
	}
	// The disk is detached lazily, as an impatient operator does it: a program that has
	// the folder open could go on to write into a folder that no other program can reach.
	if err := unix.Unmount(d.Point, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	away("detached", early, obs.ErrNoFolder)
	if err := os.Mkdir(dir, 0o700); err != nil { // below the mount point
		t.Fatal(err)
	}
	away("an empty folder", early, obs.ErrNoMarker)
	late := open(t, url, obs.Options{Later: true, Retry: &once})
	away("opened while it is away", late, obs.ErrNoMarker)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in the mount point there are %v, %v", left, err)
	}
	d.Mount()
	for what, s := range map[string]obs.Store{"early": early, "late": late} {
		if err := s.Put(t.Context(), "a/"+what, []byte("back")); err != nil {
			t.Errorf("%s, after the disk is back: %v", what, err)
		}
	}
	if got := names(t, late); !slices.Equal(got, []string{"a/1", "a/early", "a/late"}) {
		t.Errorf("List: %q", got)
	}
}

// TestFileAtClose: after Close every call fails, and calls under way are not disturbed by it.
func TestFileAtClose(t *testing.T) {
	s := open(t, "file://"+t.TempDir(), obs.Options{Create: true, Retry: &once})
	if err := s.Put(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key != "a" {
			t.Errorf("%+v, %v", info, err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}
