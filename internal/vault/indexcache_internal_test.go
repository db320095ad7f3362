package vault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// countReads counts what is read.
type countReads struct {
	obs.Store
	reads atomic.Int32
}

func (c *countReads) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	c.reads.Add(1)
	return c.Store.ReadAt(ctx, key, p, off)
}

// TestLocalFiles: the cached files are used, swept, made anew when they are not sound, and never missed.
func TestLocalFiles(t *testing.T) {
	v := fuzzVault(t)
	dir := t.TempDir()
	const n = 500
	put(t, v, 0, n)
	counting := &countReads{Store: v.st}
	v.st = counting
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
			old := time.Now().Add(-2 * staleFile)
			stale := filepath.Join(filepath.Dir(f), unfinished+"1")
			return errors.Join(os.WriteFile(filepath.Join(filepath.Dir(f), strings.Repeat("0", 32)), []byte("x"), 0o600),
				os.WriteFile(stale, []byte("x"), 0o600), os.Chtimes(stale, old, old))
		}, false},
	} {
		if files := segmentFiles(t, v, dir); len(files) == 1 {
			if err := c.do(files[0]); err != nil {
				t.Fatal(err)
			}
		}
		counting.reads.Store(0)
		x, err := v.openIndex(t.Context(), dir, nil, func(err error) { t.Errorf("%s: told %v", c.name, err) })
		if err != nil {
			t.Fatal(err)
		}
		holds(t, x, 0, n)
		x.close()
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

// TestFoldersOfOtherVaults: those that nobody opened for long are removed, what is not of the form of one is left.
func TestFoldersOfOtherVaults(t *testing.T) {
	v := fuzzVault(t)
	dir := t.TempDir()
	long := time.Now().Add(-2 * staleVault)
	for _, name := range []string{"0123456789abcdef", "0123456789abcdee", "notes"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if name != "0123456789abcdee" {
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	openIndex(t, v, dir)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	want := []string{"0123456789abcdee", "notes", v.Fingerprint()}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("left are %v, want %v", names, want)
	}
}

// TestFolderThatIsSomewhereElse: whoever puts a link in the place of the vault's folder makes nobody remove other things there.
func TestFolderThatIsSomewhereElse(t *testing.T) {
	v, dir, other := fuzzVault(t), t.TempDir(), t.TempDir()
	put(t, v, 0, 10)
	theirs := filepath.Join(other, "shadow")
	if err := errors.Join(os.WriteFile(theirs, nil, 0o600), os.Symlink(other, filepath.Join(dir, v.Fingerprint()))); err != nil {
		t.Fatal(err)
	}
	holds(t, openIndex(t, v, dir), 0, 10)
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

// TestFolderThatCanNotBeUsed: the index works without it, and says so.
func TestFolderThatCanNotBeUsed(t *testing.T) {
	v := fuzzVault(t)
	put(t, v, 0, 100)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	told := 0
	x, err := v.openIndex(t.Context(), file, nil, func(error) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	holds(t, x, 0, 100)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// TestFileThatFailsWhileItIsMapped: a cached file that loses its end, or a block, under a running writer makes names
// unknown, is told once and fetched again by the next; nothing crashes.
func TestFileThatFailsWhileItIsMapped(t *testing.T) {
	for name, harm := range map[string]func(file string) error{
		"cut off": func(f string) error { return os.Truncate(f, 0) },
		"zeros":   func(f string) error { return zero(f, 2000) },
	} {
		v := fuzzVault(t)
		dir := t.TempDir()
		const n = 5000
		put(t, v, 0, n)
		var mu sync.Mutex
		told := 0
		x, err := v.openIndex(t.Context(), dir, nil, func(error) { mu.Lock(); told++; mu.Unlock() })
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
					if loc, ok := x.find(nameOf(i)); !ok {
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
		x.close()
		if told != 1 || missing == 0 {
			t.Errorf("%s: told %d times, %d names unknown", name, told, missing)
		}
		holds(t, openIndex(t, v, dir), 0, n)
	}
}
