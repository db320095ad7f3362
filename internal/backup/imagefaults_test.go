package backup_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// TestImageIsNotPadded: an image that ends before its size, or goes
// on behind it, is stored as long as it is.
func TestImageIsNotPadded(t *testing.T) {
	f := testbed.StartFUSE(t)
	for _, size := range []int{0, 1000, 64 << 10, 3<<20 + 77} {
		want := filesIn(t, f.Folder, map[string]int{"image": size})["image"]
		for _, told := range []uint64{0, uint64(size) / 2, uint64(size) + 1, uint64(size) + 100_000, uint64(size) + 1<<30} {
			f.Set(testbed.FUSESizes(func(string, uint64) uint64 { return told }))
			v := newVault(t, obs.NewMemory())
			res := backUp(t, v, filepath.Join(f.Point, "image"))
			if got := imageOf(t, v, res); !bytes.Equal(got, want) || res.Lost > 0 {
				t.Errorf("size %d given as %d: got %d bytes, or others; lost %q", size, told, len(got), lossesOf(res))
			}
		}
	}
}

// TestImageThatEndsWhileItIsRead: an image that was cut short during
// its reading is reported as lost, and gets no zeros for its lost end.
func TestImageThatEndsWhileItIsRead(t *testing.T) {
	f := testbed.StartFUSE(t)
	const size, end = 5 << 20, 3<<20 + 1000
	want := filesIn(t, f.Folder, map[string]int{"image": size})["image"]
	f.Set(testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
		// single bytes are how its end is looked for
		if len(data) > 1 && off+int64(len(data)) > end {
			data = data[:max(end-off, 0)]
		}
		return data, 0
	}})
	v := newVault(t, obs.NewMemory())
	res := backUp(t, v, filepath.Join(f.Point, "image"))
	if got := imageOf(t, v, res); !bytes.Equal(got, want[:end]) || res.Lost == 0 {
		t.Errorf("got %d bytes, want %d, or others; lost %q", len(got), end, lossesOf(res))
	}
	if res.Catalogues["data"] != "" {
		t.Error("it is the base of the next backup")
	}
}

// TestUnreadableChunksOfAnImage: an unreadable range of an image
// becomes zeros and a loss that names it, and the backup is no base.
func TestUnreadableChunksOfAnImage(t *testing.T) {
	f := testbed.StartFUSE(t)
	const grid = 64 << 10
	want := filesIn(t, f.Folder, map[string]int{"image": 100*grid + 10})["image"]
	path := filepath.Join(f.Point, "image")
	for name, c := range map[string]struct {
		bad   []int // chunks
		names string
	}{
		"one":        {[]int{7}, fmt.Sprintf("%d bytes of the image can't be read (input/output error), and are zeros in the backup: bytes %d to %d", grid, 7*grid, 8*grid-1)},
		"neighbours": {[]int{15, 16, 17}, fmt.Sprintf("bytes %d to %d", 15*grid, 18*grid-1)},
		"the first":  {[]int{0}, "bytes 0 to 65535"},
		"many":       {[]int{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39}, "and 4 further ranges"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := map[int64]bool{}
			zeroed := bytes.Clone(want)
			for _, i := range c.bad {
				bad[int64(i)] = true
				clear(zeroed[i*grid : (i+1)*grid])
			}
			f.Set(testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
				for i := off / grid; i <= (off+int64(len(data))-1)/grid && len(data) > 0; i++ {
					if bad[i] {
						return nil, unix.EIO
					}
				}
				return data, 0
			}})
			v := newVault(t, obs.NewMemory())
			res := backUp(t, v, path)
			if got := imageOf(t, v, res); !bytes.Equal(got, zeroed) {
				t.Errorf("the image has %d bytes, or others than it should", len(got))
			}
			what := lossesOf(res)[path]
			if res.Lost != 1 || !strings.Contains(what, c.names) || strings.Count(what, " to ") > 16 {
				t.Errorf("%d lost: %q, want %q", res.Lost, what, c.names)
			}
			if res.Catalogues["data"] != "" {
				t.Error("it is the base of the next backup")
			}
		})
	}
}

// TestNothingOfAnImageIsReadable: there is no backup of an image of which nothing can be read.
func TestNothingOfAnImageIsReadable(t *testing.T) {
	f := testbed.StartFUSE(t)
	filesIn(t, f.Folder, map[string]int{"image": 3 << 20})
	f.Set(testbed.FUSERefuses(unix.EIO, testbed.FUSERead))
	path := filepath.Join(f.Point, "image")
	v := newVault(t, obs.NewMemory())
	_, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: path}}})
	if err == nil || !strings.Contains(err.Error(), "input/output error") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestUnreadableChunksOfADevice: a block device with bad blocks is as an image with them.
func TestUnreadableChunksOfADevice(t *testing.T) {
	testbed.Need(t, "root", "losetup")
	f := testbed.StartFUSE(t)
	const grid = 64 << 10
	want := filesIn(t, f.Folder, map[string]int{"disk": 64 * grid})["disk"]
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", filepath.Join(f.Point, "disk")).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, exec.Command("losetup", "--detach", device).Run()) })
	f.Set(testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
		if off < 8*grid && off+int64(len(data)) > 7*grid {
			return nil, unix.EIO
		}
		return data, 0
	}})
	clear(want[7*grid : 8*grid])
	v := newVault(t, obs.NewMemory())
	res := backUp(t, v, device)
	if got := imageOf(t, v, res); !bytes.Equal(got, want) {
		t.Errorf("the image has %d bytes, want %d, or others", len(got), len(want))
	}
	if what := lossesOf(res)[device]; res.Lost != 1 || !strings.Contains(what, fmt.Sprintf("bytes %d to %d", 7*grid, 8*grid-1)) {
		t.Errorf("%d lost: %q", res.Lost, what)
	}
}
