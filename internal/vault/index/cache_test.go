package index

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// countReads counts the bytes of reads.
type countReads struct {
	obs.Store
	reads atomic.Int32
}

func (c *countReads) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	c.reads.Add(1)
	return c.Store.ReadAt(ctx, key, p, off)
}

// TestLocalFiles: the cached files are used, swept, made anew when
// they are not sound, and never missed.
func TestLocalFiles(t *testing.T) {
	v := newPlace(t)
	dir := t.TempDir()
	const n = 500
	put(t, v, 0, n)
	counting := &countReads{Store: v.Store}
	v.Store = counting
	for _, c := range []struct {
		name  string
		do    func(file string) error
		fetch bool
	}{
		{"first", func(string) error { return nil }, true},
		{"again", func(string) error { return nil }, false},
		{"removed", os.Remove, true},
		{"cut off", func(f string) error { return os.Truncate(f, 5000) }, true},
		{"emptied", func(f string) error { return os.Truncate(f, 0) }, true},
		{"grown", func(f string) error { return os.Truncate(f, 50000) }, true},
		{"head of zeros", func(f string) error { return zero(f, n*indexRowSize+1000) }, true},
		{"folder removed", func(f string) error { return os.RemoveAll(filepath.Dir(f)) }, true},
		{"foreign files", func(f string) error {
			return errors.Join(os.WriteFile(filepath.Join(filepath.Dir(f), strings.Repeat("0", 32)), []byte("x"), 0o600),
				os.WriteFile(filepath.Join(filepath.Dir(f), Unfinished+"1"), []byte("x"), 0o600))
		}, false},
	} {
		if files := segmentFiles(t, v, dir); len(files) == 1 {
			if err := c.do(files[0]); err != nil {
				t.Fatal(err)
			}
		}
		counting.reads.Store(0)
		x, err := v.Open(t.Context(), dir, nil, func(err error) { t.Errorf("%s: told %v", c.name, err) })
		if err != nil {
			t.Fatal(err)
		}
		holds(t, x, 0, n)
		x.Close()
		if fetched := counting.reads.Load() > 0; fetched != c.fetch {
			t.Errorf("%s: fetched: %v", c.name, fetched)
		}
		if files := segmentFiles(t, v, dir); len(files) != 1 {
			t.Errorf("%s: files %v", c.name, files)
		}
	}
}

func zero(file string, at int) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 64), int64(at))
	return errors.Join(err, f.Close())
}

// TestFoldersOfOtherVaults: folders that no backup used for long are removed,
// by the time that the host was up and by its boots; neither the wall clock
// nor the times of the folders count. A folder whose name is no vault's stays.
func TestFoldersOfOtherVaults(t *testing.T) {
	v := newPlace(t)
	dir := t.TempDir()
	now := clockNow()
	if now.Boot == "" || now.Up == 0 {
		t.Fatalf("the clock of the boot says %+v", now)
	}
	was := clockNow
	t.Cleanup(func() { clockNow = was })
	const used, other, foreign = "0123456789abcdef", "0123456789abcdee", "notes"
	for _, name := range []string{used, other, foreign} {
		path := filepath.Join(dir, name)
		long := time.Unix(0, 0)
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600), os.Chtimes(path, long, long)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(c bootClock) { clockNow = func() bootClock { return c } }
	there := func(when string, want ...string) {
		t.Helper()
		openIndex(t, v, dir).Close()
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range left {
			names = append(names, e.Name())
		}
		want = append(want, foreign, v.Folder)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("%s: left are %v, want %v", when, names, want)
		}
	}
	at(bootClock{})
	there("the boot is not known", used, other)
	at(bootClock{"a", 1000})
	there("seen for the first time", used, other)
	at(bootClock{"a", 1000 + unusedTime/2})
	there("half of the time", used, other)
	at(bootClock{"b", 10})
	there("after a boot", used, other)
	at(bootClock{"b", 5})
	there("a clock of another namespace", used, other)
	use(filepath.Join(dir, used), clockNow())
	at(bootClock{"b", 15 + unusedTime/2})
	there("the time of two boots together", used)
	for i := range unusedBoots - 1 {
		at(bootClock{"b" + strconv.Itoa(i), 1})
		there("many boots", used)
	}
	at(bootClock{"last", 1})
	there("the last boot before it goes", used)
	at(bootClock{"one more", 1})
	there("too many boots")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, used), 0o700), os.WriteFile(filepath.Join(dir, used, stampName), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	there("a stamp that is torn", used)
}

// TestUnfinishedFilesAreLocked: a file that a process writes stays,
// whatever its times say; one whose process was killed goes at once.
func TestUnfinishedFilesAreLocked(t *testing.T) {
	v, dir := newPlace(t), t.TempDir()
	mine, err := v.openSegmentDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := mine.create()
	if err != nil {
		t.Fatal(err)
	}
	// as a mapped one is
	if err := errors.Join(f.Close(), os.Chtimes(f.Name(), time.Unix(0, 0), time.Unix(0, 0))); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(filepath.Dir(f.Name()), Unfinished+"killed")
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	openIndex(t, v, dir).Close()
	if _, err := os.Stat(f.Name()); err != nil {
		t.Errorf("a file under way: %v", err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a killed process's file: %v", err)
	}
	mine.discard(f.Name())
	if f, err = mine.create(); err != nil {
		t.Fatal(err)
	}
	mine.unlock(f.Name()) // as when the process is killed
	_ = f.Close()
	openIndex(t, v, dir).Close()
	if _, err := os.Stat(f.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// TestFolderThatIsSomewhereElse: whoever puts a link in the place
// of the vault's folder makes nobody remove other things there.
func TestFolderThatIsSomewhereElse(t *testing.T) {
	v, dir, other := newPlace(t), t.TempDir(), t.TempDir()
	put(t, v, 0, 10)
	theirs := filepath.Join(other, "shadow")
	if err := errors.Join(os.WriteFile(theirs, nil, 0o600), os.Symlink(other, filepath.Join(dir, v.Folder))); err != nil {
		t.Fatal(err)
	}
	holds(t, openIndex(t, v, dir), 0, 10)
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

// TestFolderThatCanNotBeUsed: the index works without it, and says so.
func TestFolderThatCanNotBeUsed(t *testing.T) {
	v := newPlace(t)
	put(t, v, 0, 100)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	told := 0
	x, err := v.Open(t.Context(), file, nil, func(error) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	holds(t, x, 0, 100)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// TestDiskThatTakesNoIndex: nothing that is wrong with the disk of the cache
// fails, or is more than one warning, and what there is memory for is found.
func TestDiskThatTakesNoIndex(t *testing.T) {
	testbed.Need(t, "root")
	v := newPlace(t)
	const n = 3000
	put(t, v, 0, n)
	put(t, v, n, 2*n)
	full := testbed.Tmpfs(t, "size=64k")
	if err := os.WriteFile(filepath.Join(full, "filler"), make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) && err != nil {
		t.Fatal(err)
	}
	tight := testbed.Tmpfs(t, "size=96k") // takes the folder, and a part of a segment
	inodes := testbed.Tmpfs(t, "nr_inodes=2")
	sealed := testbed.Tmpfs(t, "size=1m")
	if err := unix.Mount("", sealed, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"full": full, "full in the middle": tight, "no inodes": inodes, "read only": sealed, "a file": file, "below a file": file + "/x",
		"a name that is too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300)), "nowhere": "/proc/holdfast/index",
	} {
		for _, tmp := range []string{t.TempDir(), full, filepath.Join(t.TempDir(), "gone")} {
			t.Setenv("TMPDIR", tmp)
			var told []error
			x, err := v.Open(t.Context(), dir, nil, func(err error) { told = append(told, err) })
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			holds(t, x, 0, 2*n)
			x.Close()
			if len(told) != 1 {
				t.Errorf("%s: told %v", name, told)
			}
		}
	}

	// Beyond the memory that it may take: without, and once more nothing fails.
	t.Setenv("TMPDIR", full)
	segments, err := v.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := v.openSegmentDir(file)
	if err == nil {
		t.Fatal("a file is a folder")
	}
	dir.failed(&diskError{err})
	for _, size := range segments {
		dir.shared.maxInMem = size + 1
	}
	got := map[bool]int{}
	for id, size := range segments {
		s, err := dir.fetch(t.Context(), *v, id, size)
		if err == nil {
			s.close()
		} else if !errors.Is(err, errNoRoom) {
			t.Error(err)
		}
		got[err == nil]++
	}
	if got[true] != 1 || got[false] != 1 || !strings.Contains(dir.trouble().Error(), "1 of its parts") {
		t.Errorf("fetched %d, left out %d: %v", got[true], got[false], dir.trouble())
	}
}

// TestFileThatFailsWhileItIsMapped: a cached file that loses its end, or a block, under a running
// writer makes names unknown, is told once and fetched again by the next; nothing crashes.
func TestFileThatFailsWhileItIsMapped(t *testing.T) {
	for name, harm := range map[string]func(file string) error{
		"cut off": func(f string) error { return os.Truncate(f, 0) },
		"zeros":   func(f string) error { return zero(f, 2000) },
	} {
		v := newPlace(t)
		dir := t.TempDir()
		const n = 5000
		put(t, v, 0, n)
		var mu sync.Mutex
		told := 0
		x, err := v.Open(t.Context(), dir, nil, func(error) { mu.Lock(); told++; mu.Unlock() })
		if err != nil {
			t.Fatal(err)
		}
		if err := harm(segmentFiles(t, v, dir)[0]); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		missing := 0
		for g := range 4 {
			wg.Go(func() {
				for i := g; i < n; i += 4 {
					if loc, ok := x.Find(nameOf(i)); !ok {
						mu.Lock()
						missing++
						mu.Unlock()
					} else if loc != locOf(i) {
						t.Errorf("%s: name %d is at %v", name, i, loc)
					}
				}
			})
		}
		wg.Wait()
		x.Close()
		if told != 1 || missing == 0 {
			t.Errorf("%s: told %d times, %d names unknown", name, told, missing)
		}
		holds(t, openIndex(t, v, dir), 0, n)
	}
}
