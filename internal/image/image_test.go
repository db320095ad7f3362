package image_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/image"
	"holdfast/internal/testbed"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOnlyFilesAndDevicesAreImages(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	for _, path := range []string{dir, pipe, "/dev/null"} {
		if i, err := image.Open(path); !errors.Is(err, image.ErrNoImage) {
			t.Errorf("open %s: %v, %v", path, i, err)
		}
		if _, err := image.OpenDevice(path); !errors.Is(err, image.ErrNoImage) {
			t.Errorf("write %s as a device: %v", path, err)
		}
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 70000} {
		p := make([]byte, n)
		if !image.IsZero(p) {
			t.Errorf("%d zeros are none", n)
		}
		for _, at := range []int{0, n / 2, n - 1} {
			if n > 0 {
				p[at] = 1
				if image.IsZero(p) {
					t.Errorf("a 1 at %d of %d is not seen", at, n)
				}
				p[at] = 0
			}
		}
	}
}

// Written content comes back, for every offset, and blocks of zeros take no room.
func TestTargetLeavesZerosOut(t *testing.T) {
	path := filepath.Join(testbed.Dir(t), "disk.img")
	w, err := image.Create(path)
	must(t, err)
	defer w.Close()
	const size = 8<<20 + 100
	must(t, w.Resize(size))
	want := make([]byte, size)
	for off, n := range map[int]int{0: 10, 5000: 9000, 1<<20 - 1: 3 << 20, 5 << 20: 4096, 6<<20 + 77: 4096} {
		p := make([]byte, n)
		for _, at := range []int{0, n / 2, n - 1} {
			p[at] = 7
		}
		copy(want[off:], p)
		got, err := w.WriteAt(p, int64(off))
		if err != nil || got != n {
			t.Fatalf("write %d at %d: %d, %v", n, off, got, err)
		}
	}
	must(t, w.Zero(7<<20, 1000))
	must(t, w.Finish())
	must(t, w.Close())
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the file has other content")
	}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Blocks*512 > 256<<10 {
		t.Errorf("the file takes %d bytes", st.Blocks*512)
	}
}

func TestChanged(t *testing.T) {
	path := filepath.Join(testbed.Dir(t), "disk.img")
	must(t, os.WriteFile(path, make([]byte, 10000), 0o600))
	i, err := image.Open(path)
	must(t, err)
	defer i.Close()
	if changed, err := i.Changed(); changed || err != nil {
		t.Errorf("before a write: %v, %v", changed, err)
	}
	must(t, os.Truncate(path, 9000))
	if changed, err := i.Changed(); !changed || err != nil {
		t.Errorf("after a write: %v, %v", changed, err)
	}
}
