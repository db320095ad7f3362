package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

func TestOpenNoticesOtherFiles(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"removed":       os.Remove,
		"replaced":      func(p string) error { return errors.Join(os.WriteFile(p+".new", nil, 0o600), os.Rename(p+".new", p)) },
		"now a symlink": func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.Symlink(p+".old", p)) },
		"now a folder":  func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.Mkdir(p, 0o700)) },
		"now a fifo":    func(p string) error { return errors.Join(os.Rename(p, p+".old"), unix.Mkfifo(p, 0o600)) },
		"folder a symlink": func(p string) error {
			d := filepath.Dir(p)
			return errors.Join(os.Rename(d, d+".old"), os.Symlink(d+".old", d))
		},
		"folder a file": func(p string) error {
			d := filepath.Dir(p)
			return errors.Join(os.Rename(d, d+".old"), os.WriteFile(d, nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/f", "content")
			entries, _ := walk(t, dir)
			r := openRoot(t, dir)
			if err := change(filepath.Join(dir, "d/f")); err != nil {
				t.Fatal(err)
			}
			f, err := r.Open(entries[2])
			if !errors.Is(err, tree.ErrChanged) {
				t.Errorf("got %v, %v", f, err)
			}
			if _, err := r.Open(entries[1]); err == nil {
				t.Error("a folder was opened for its content")
			}
		})
	}
}

func TestOpenLeavesTheAccessTimeAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f", "content")
	old := time.Unix(1000, 0)
	if err := os.Chtimes(filepath.Join(dir, "f"), old, time.Now()); err != nil {
		t.Fatal(err)
	}
	entries, _ := walk(t, dir)
	f, err := openRoot(t, dir).Open(entries[1])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Atim.Sec != 1000 {
		t.Errorf("read at %d: %v", st.Atim.Sec, err)
	}
}

func TestUnchanged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	write(t, dir, "f", "content")
	entries, _ := walk(t, dir)
	e := entries[1]
	r := openRoot(t, dir)
	f, err := r.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if same, err := r.Unchanged(e, f); !same || err != nil {
		t.Errorf("untouched: %v %v", same, err)
	}
	// Whoever writes and then puts the time back is still given away by the change time. The kernel's
	// clock for it ticks every few milliseconds.
	time.Sleep(20 * time.Millisecond)
	write(t, dir, "f", "CONTENT")
	if err := unix.UtimesNano(path, []unix.Timespec{{}, {Sec: e.Mtime.Sec, Nsec: int64(e.Mtime.Nsec)}}); err != nil {
		t.Fatal(err)
	}
	if same, err := r.Unchanged(e, f); same || err != nil {
		t.Errorf("written: %v %v", same, err)
	}
	st, err := tree.Restat(f)
	if err != nil || st.Size != e.Size || st.Mtime != e.Mtime || st.Ino != e.Ino || st.Ctime == e.Ctime {
		t.Errorf("restat: %+v %v", st, err)
	}
}

func TestOpenFromManyGoroutines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep")
	makeDeep(t, dir, 100)
	entries, _ := walk(t, dir)
	r := openRoot(t, dir)
	var g errgroup.Group
	g.SetLimit(8)
	for _, e := range entries {
		if e.Kind != tree.File {
			continue
		}
		g.Go(func() error {
			f, err := r.Open(e)
			if err != nil {
				return err
			}
			return f.Close()
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n > 40 {
		t.Errorf("%d descriptors are open", n)
	}
}

// TestWalkKeepsFewFoldersOpen counts descriptors at the bottom of a deep tree.
func TestWalkKeepsFewFoldersOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep")
	makeDeep(t, dir, 1000)
	before, most, n := openFiles(t), 0, 0
	err := openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{}, func(*tree.Entry) error {
		if n++; n%100 == 0 {
			most = max(most, openFiles(t))
		}
		return nil
	})
	if err != nil || n != 3001 {
		t.Errorf("%d entries: %v", n, err)
	}
	if most-before > 70 {
		t.Errorf("%d folders were open at once", most-before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestDataRanges(t *testing.T) {
	type ranges []tree.Range
	const k = 64 << 10 // a multiple of every block size
	for name, c := range map[string]struct {
		size int64
		data []tree.Range
		ask  int64
		want ranges
	}{
		"empty":           {0, nil, 0, nil},
		"hole":            {10 * k, nil, 10 * k, nil},
		"data":            {k, ranges{{0, k}}, k, ranges{{0, k}}},
		"both ends":       {10 * k, ranges{{0, k}, {9 * k, k}}, 10 * k, ranges{{0, k}, {9 * k, k}}},
		"middle":          {10 * k, ranges{{4 * k, k}}, 10 * k, ranges{{4 * k, k}}},
		"asked for less":  {10 * k, ranges{{0, 4 * k}, {9 * k, k}}, 3*k + 1, ranges{{0, 3*k + 1}}},
		"asked for more":  {2 * k, ranges{{0, k}}, 10 * k, ranges{{0, k}}},
		"a byte at a end": {5*k + 1, ranges{{5 * k, 1}}, 5*k + 1, ranges{{5 * k, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			for _, r := range c.data {
				if _, err := f.WriteAt(make([]byte, r.Len), r.Off); err != nil {
					t.Fatal(err)
				}
			}
			var got ranges
			for r, err := range tree.DataRanges(f, c.ask) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r)
			}
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

// TestPermissionErrorNamesThePath walks as a user who may not read everything.
func TestPermissionErrorNamesThePath(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	write(t, dir, "a/locked/f", "")
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "a/locked"), 0o700); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		err := openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{}, func(*tree.Entry) error { return nil })
		var at *tree.PathError
		if !errors.As(err, &at) || at.Path != "a/locked" || !errors.Is(err, os.ErrPermission) {
			t.Errorf("got %v", err)
		}
	})
}
