package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// backUp makes a backup of dir, which is a tree or an image.
func backUp(t testing.TB, v *vault.Vault, dir string) *backup.Result {
	t.Helper()
	res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}})
	must(t, err)
	return res
}

// filesIn makes files of those sizes and returns their content.
func filesIn(t testing.TB, dir string, sizes map[string]int) map[string][]byte {
	t.Helper()
	want := map[string][]byte{}
	for name, size := range sizes {
		path := filepath.Join(dir, name)
		// no two files share a block, so each block on the disk belongs to one file
		want[name] = make([]byte, size)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(path))).Read(want[name]) // never fails
		must(t, os.WriteFile(path, want[name], 0o600))
	}
	return want
}

var oddSizes = map[string]int{"empty": 0, "one": 1, "small": 1000, "page": 4096, "bundle": 512 << 10, "bundle and one": 512<<10 + 1, "large": 3<<20 + 5, "section": 1 << 20}

// contentsRestored are the files that a restore of the backup makes.
func contentsRestored(t testing.TB, v *vault.Vault, res *backup.Result) map[string][]byte {
	t.Helper()
	got := map[string][]byte{}
	for path, e := range entriesOf(t, restored(t, v, res)) {
		if e.Kind == tree.File {
			got[path] = []byte(e.content)
		}
	}
	return got
}

// TestShortFileIsNotPadded: a file that ends before its size is
// stored as long as it is, with a warning and no loss.
func TestShortFileIsNotPadded(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, oddSizes)
	for name, tell := range map[string]func(uint64) uint64{
		"a byte more":   func(n uint64) uint64 { return n + 1 },
		"up to a page":  func(n uint64) uint64 { return n/4096*4096 + 4096 },
		"a MiB more":    func(n uint64) uint64 { return n + 1<<20 },
		"a sparse file": func(n uint64) uint64 { return n + 1<<30 },
	} {
		for _, seek := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", seeks ", seek), func(t *testing.T) {
				odd := []testbed.Oddity{testbed.FUSESizes(func(_ string, n uint64) uint64 { return tell(n) })}
				if !seek {
					odd = append(odd, testbed.FUSERefuses(unix.EINVAL, testbed.FUSESeek))
				}
				f.Set(odd...)
				v := newVault(t, obs.NewMemory())
				res := backUp(t, v, f.Point)
				compare(t, contentsRestored(t, v, res), want)
				if res.Lost > 0 {
					t.Errorf("lost %q", lossesOf(res))
				}
				for path := range want {
					said := fmt.Sprintf("its size was given as %d, it has %d bytes", tell(uint64(len(want[path]))), len(want[path]))
					if !slices.ContainsFunc(res.Warnings, func(w tree.Warning) bool { return w.Path == path && strings.HasPrefix(w.What, said) }) {
						t.Errorf("%q: nothing says that %s", path, said)
					}
				}
			})
		}
	}
}

// TestContentBehindItsSizeIsRead: a file whose size is 0 or too small is read to its end.
func TestContentBehindItsSizeIsRead(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, oddSizes)
	for name, tell := range map[string]func(uint64) uint64{
		"none":        func(uint64) uint64 { return 0 },
		"a byte less": func(n uint64) uint64 { return max(n, 1) - 1 },
		"a half":      func(n uint64) uint64 { return n / 2 },
	} {
		t.Run(name, func(t *testing.T) {
			f.Set(testbed.FUSESizes(func(_ string, n uint64) uint64 { return tell(n) }))
			v := newVault(t, obs.NewMemory())
			res := backUp(t, v, f.Point)
			compare(t, contentsRestored(t, v, res), want)
			if res.Lost > 0 {
				t.Errorf("lost %q", lossesOf(res))
			}
		})
	}
}

// TestEndlessFile: a file without an end is left out, as a loss, and the backup ends.
func TestEndlessFile(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, map[string]int{"endless": 10, "honest": 10})
	delete(want, "endless")
	must(t, os.Truncate(filepath.Join(f.Folder, "endless"), 1<<40))
	for _, size := range []uint64{0, 10, 2 << 20} {
		f.Set(testbed.FUSESizes(func(string, uint64) uint64 { return size }).At("endless"))
		v := newVault(t, obs.NewMemory())
		res := backUp(t, v, f.Point)
		compare(t, contentsRestored(t, v, res), want)
		if lost := lossesOf(res); res.Lost != 1 || !strings.Contains(lost["endless"], "no end") {
			t.Errorf("size %d: lost %q", size, lost)
		}
	}
}

// TestFilesOfTheKernel: files of sysfs and procfs, whose sizes are
// a page or 0, are stored as they read.
func TestFilesOfTheKernel(t *testing.T) {
	for _, dir := range []string{"/sys/module/fuse/parameters", "/sys/module/loop/parameters", "/proc/sys/kernel/keys", "/proc/sys/fs/mqueue"} {
		t.Run(dir, func(t *testing.T) {
			names, err := os.ReadDir(dir)
			if err != nil {
				t.Skip(err)
			}
			want := map[string][]byte{}
			for _, n := range names {
				if b, err := os.ReadFile(filepath.Join(dir, n.Name())); err == nil {
					want[n.Name()] = b
				}
			}
			v := newVault(t, obs.NewMemory())
			res := backUp(t, v, dir)
			compare(t, contentsRestored(t, v, res), want)
		})
	}
	t.Run("an image", func(t *testing.T) {
		v := newVault(t, obs.NewMemory())
		for _, path := range []string{"/proc/sys/kernel/ostype", "/sys/module/fuse/parameters/max_user_bgreq"} {
			want, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			res := backUp(t, v, path)
			if got := imageOf(t, v, res); !bytes.Equal(got, want) || res.Lost > 0 {
				t.Errorf("%s is %q, want %q; lost %d", path, got, want, res.Lost)
			}
		}
	})
}

// imageOf is the content of the image that was backed up.
func imageOf(t testing.TB, v *vault.Vault, res *backup.Result) []byte {
	t.Helper()
	b, err := os.ReadFile(restored(t, v, res))
	must(t, err)
	return b
}

// TestInodeNumbersThatChange: a file system that tells another
// inode number at every look loses nothing.
func TestInodeNumbersThatChange(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, oddSizes)
	must(t, unix.Chmod(filepath.Join(f.Folder, "small"), 0o4711), unix.Setxattr(filepath.Join(f.Folder, "small"), "user.x", []byte("y"), 0))
	f.Set(testbed.FUSENumbersChange())
	v := newVault(t, obs.NewMemory())
	res := backUp(t, v, f.Point)
	dest := restored(t, v, res)
	got := entriesOf(t, dest)
	for name, b := range want {
		if got[name].content != string(b) {
			t.Errorf("%s has %d bytes, want %d, or others", name, len(got[name].content), len(b))
		}
	}
	if e := got["small"]; e.Mode != 0o4711 || len(e.Xattrs) != 1 || string(e.Xattrs[0].Value) != "y" {
		t.Errorf("its metadata is %+v", e.Entry)
	}
	if res.Lost > 0 {
		t.Errorf("lost %q", lossesOf(res))
	}
}

// TestTimesThatChange: a file system that tells another time at
// every look loses no content that does not change.
func TestTimesThatChange(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, oddSizes)
	var mu sync.Mutex
	now := time.Unix(1_000_000, 0)
	f.Set(testbed.Oddity{Attr: func(_ string, a *testbed.FUSEAttr) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		a.Modify, a.Change = now, now
	}})
	v := newVault(t, obs.NewMemory())
	res := backUp(t, v, f.Point)
	compare(t, contentsRestored(t, v, res), want)
	if res.Lost > 0 {
		t.Errorf("lost %q", lossesOf(res))
	}
}

// TestUnreadableFileIsLeftOut: a file that can't be opened, looked at or read whole is a loss
// that names it, for each reason of the file system, and all other files are in the backup.
func TestUnreadableFileIsLeftOut(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, map[string]int{"small": 1000, "large": 3 << 20, "bad small": 2000, "bad large": 5 << 20, "linked": 3000})
	must(t, os.Link(filepath.Join(f.Folder, "linked"), filepath.Join(f.Folder, "linked too")))
	delete(want, "bad small")
	delete(want, "bad large")
	delete(want, "linked")
	delete(want, "linked too")
	bad := []string{"bad small", "bad large", "linked", "linked too"}
	for _, errno := range []syscall.Errno{
		unix.EIO, unix.ENOKEY, unix.EACCES, unix.EPERM, unix.ETIMEDOUT, unix.ESTALE, unix.ENODATA, unix.EBADMSG, unix.EOVERFLOW,
		unix.ENXIO, unix.EUCLEAN, unix.EINVAL, unix.ENOTCONN, unix.EAGAIN, unix.EREMOTEIO, unix.ENOTSUP,
	} {
		odd := map[string]testbed.Oddity{
			"read": testbed.FUSERefuses(errno, testbed.FUSERead).At(bad...),
			// In the middle of the large ones.
			"read of a part": testbed.Oddity{Read: func(path string, off int64, data []byte) ([]byte, syscall.Errno) {
				if off >= 2<<20 || !strings.HasSuffix(path, "large") {
					return nil, errno
				}
				return data, 0
			}}.At(bad...),
		}
		// an open of a file with a lease is tried for long
		if errno != unix.EAGAIN && errno != unix.EINVAL {
			odd["open"] = testbed.FUSERefuses(errno, testbed.FUSEOpen).At(bad...)
		}
		for op, o := range odd {
			t.Run(fmt.Sprint(errno, " on ", op), func(t *testing.T) {
				f.Set(o)
				v := newVault(t, obs.NewMemory())
				res := backUp(t, v, f.Point)
				compare(t, contentsRestored(t, v, res), want)
				lost := lossesOf(res)
				for _, path := range bad {
					if what := lost[path]; strings.Count(what, "could not be read") != 1 {
						t.Errorf("%q: lost as %q", path, what)
					}
				}
				if len(lost) != len(bad) {
					t.Errorf("lost %q", lost)
				}
			})
		}
	}
}

// TestOwnLackFailsTheBackup: what our own process or machine lacks
// is not taken for a fault of a file.
func TestOwnLackFailsTheBackup(t *testing.T) {
	f := testbed.StartFUSE(t)
	filesIn(t, f.Folder, map[string]int{"small": 1000, "large": 3 << 20})
	for _, errno := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		for _, path := range []string{"small", "large"} {
			for _, op := range []testbed.FUSEOp{testbed.FUSEOpen, testbed.FUSERead} {
				f.Set(testbed.FUSERefuses(errno, op).At(path))
				v := newVault(t, obs.NewMemory())
				_, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: f.Point}}})
				if !errors.Is(err, errno) || strings.Count(err.Error(), path) != 1 {
					t.Errorf("%v on %s of %s: %v", errno, op, path, err)
				}
			}
		}
	}
}

// TestSeekIsRefused: a file system that does not tell holes loses nothing.
func TestSeekIsRefused(t *testing.T) {
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, oddSizes)
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.ENOTSUP, unix.EIO, unix.EPERM} {
		f.Set(testbed.FUSERefuses(errno, testbed.FUSESeek))
		v := newVault(t, obs.NewMemory())
		res := backUp(t, v, f.Point)
		compare(t, contentsRestored(t, v, res), want)
		if res.Lost > 0 {
			t.Errorf("%v: lost %q", errno, lossesOf(res))
		}
	}
}

// TestStreamedFile: the item of a very large file is in the recipe before
// its end is read. An end that can't be read then is a loss that says so,
// the file restores, and the next backup does not take it for unchanged.
func TestStreamedFile(t *testing.T) {
	const size = 32 << 20
	f := testbed.StartFUSE(t)
	want := filesIn(t, f.Folder, map[string]int{"f": size, "other": 100})
	for name, c := range map[string]struct {
		odd  testbed.Oddity
		upTo int // from there on are zeros
		lost bool
		size int // 0: as it is
	}{
		"whole": {upTo: size},
		"EIO": {odd: testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
			return data, errnoWithin(off, 30<<20, 31<<20)
		}}.At("f"), upTo: 28 << 20, lost: true},
		"too short": {odd: testbed.FUSESizes(func(string, uint64) uint64 { return size + 1<<20 }).At("f"), upTo: size},
		"too long":  {odd: testbed.FUSESizes(func(string, uint64) uint64 { return size - 1<<20 }).At("f"), upTo: size},
		"ends": {odd: testbed.Oddity{Read: func(_ string, off int64, data []byte) ([]byte, syscall.Errno) {
			if off >= 30<<20 && off < size-1 { // a look at its last byte finds it, the reads do not
				return nil, 0
			}
			return data, 0
		}}.At("f"), upTo: 28 << 20, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := tinyChunks(t)
			f.Set(c.odd)
			res := backUp(t, v, f.Point)
			got := contentsRestored(t, v, res)
			if !bytes.Equal(got["other"], want["other"]) || len(got["f"]) != size || !bytes.Equal(got["f"][:c.upTo], want["f"][:c.upTo]) {
				t.Errorf("f has %d bytes, want %d, or others", len(got["f"]), size)
			}
			lost := lossesOf(res)
			if _, is := lost["f"]; is != c.lost || res.Lost > 1 {
				t.Errorf("lost %q", lost)
			}
		})
	}
}

func errnoWithin(off, from, to int64) syscall.Errno {
	if from <= off && off < to {
		return unix.EIO
	}
	return 0
}

// hostile is a file system whose files become other versions of
// themselves at any look and any read.
type hostile struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	often int                // one operation in so many changes the file
	most  int                // changes
	files map[string]*victim // by path
}

type victim struct {
	seed     byte
	size     int
	version  int
	versions map[string]bool
}

// content is a version of a file: a line again and again, and another size each time.
func (v *victim) content() []byte {
	line := fmt.Appendf(nil, "%d version %08d\n", v.seed, v.version)
	size := v.size
	if v.version > 0 {
		size = v.size * (1 + v.version*7919%13) / 7
	}
	return bytes.Repeat(line, size/len(line)+1)[:size]
}

func (h *hostile) touch(path string) *victim {
	v := h.files[path]
	if v != nil && h.most > 0 && h.rnd.IntN(h.often) == 0 {
		h.most--
		v.version++
		v.versions[string(v.content())] = true
	}
	return v
}

func (h *hostile) oddity() testbed.Oddity {
	return testbed.Oddity{
		Attr: func(path string, a *testbed.FUSEAttr) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if v := h.touch(path); v != nil {
				a.Size = uint64(len(v.content()))
				a.Modify = time.Unix(1_000_000+int64(v.version), 0)
				a.Change = a.Modify
			}
		},
		Read: func(path string, off int64, data []byte) ([]byte, syscall.Errno) {
			h.mu.Lock()
			defer h.mu.Unlock()
			v := h.touch(path)
			if v == nil {
				return data, 0
			}
			if h.rnd.IntN(50*h.often) == 0 {
				return nil, unix.EIO
			}
			b := v.content()
			b = b[min(int(off), len(b)):]
			return b[:min(len(b), len(data))], 0
		},
	}
}

// TestHostileFiles: whatever files do while they are read, the backup restores,
// and each file in it is a version of the file that there was, or is told as lost.
func TestHostileFiles(t *testing.T) {
	f := testbed.StartFUSE(t)
	for name := range filesIn(t, f.Folder, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}) {
		must(t, os.Truncate(filepath.Join(f.Folder, name), 1<<30)) // larger than any version
	}
	later, told := 0, 0 // files that are in a backup as a version after the first, and losses
	for seed := range uint64(60) {
		h := &hostile{rnd: rand.New(rand.NewPCG(seed, 1)), often: 2 << (seed % 6), most: 1 + int(seed%40), files: map[string]*victim{}}
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			v := &victim{seed: byte(i), size: []int{300, 40 << 10, 300 << 10, 900 << 10, 2 << 20}[i], versions: map[string]bool{}}
			v.versions[string(v.content())] = true
			h.files[name] = v
		}
		f.Set(h.oddity(), testbed.FUSERefuses(unix.EINVAL, testbed.FUSESeek))
		v := newVault(t, obs.NewMemory())
		if seed%3 == 0 {
			v = tinyChunks(t)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		res, err := backup.Run(ctx, backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: f.Point}}})
		cancel()
		must(t, err)
		lost := lossesOf(res)
		got := contentsRestored(t, v, res)
		for name, file := range h.files {
			b, there := got[name]
			if _, told := lost[name]; !told && (!there || !file.versions[string(b)]) {
				t.Errorf("seed %d: %s has %d bytes (there: %v) that are no version of it, and nothing is told", seed, name, len(b), there)
			}
			if there && string(b) != string((&victim{seed: file.seed, size: file.size}).content()) {
				later++
			}
		}
		told += len(lost)
	}
	if later == 0 || told == 0 {
		t.Errorf("%d files changed, %d losses: the test shows nothing", later, told)
	}
	t.Logf("%d files are in the backups as later versions, %d losses", later, told)
}
