package tree_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// TestOpenReadsWhatIsThere: after any change at the path of a file since the walk, Open
// gives the new object with all of its metadata, or says that nothing can be read there.
func TestOpenReadsWhatIsThere(t *testing.T) {
	setAttribute := func(p string) error { return unix.Lsetxattr(p, "user.which", []byte("new"), 0) }
	for name, c := range map[string]struct {
		change func(path string) error
		kind   tree.Kind // 0: nothing is opened
		err    error
		want   string
	}{
		"untouched": {change: func(string) error { return nil }, kind: tree.File, want: "content"},
		"removed":   {change: os.Remove, err: tree.ErrVanished},
		"replaced": {change: func(p string) error {
			return errors.Join(os.WriteFile(p+".new", []byte("another"), 0o600), setAttribute(p+".new"), os.Chown(p+".new", 7, 8), unix.Chmod(p+".new", 0o4711), os.Rename(p+".new", p))
		}, kind: tree.File, want: "another"},
		"written": {change: func(p string) error {
			return errors.Join(os.WriteFile(p, []byte("longer than before"), 0), setAttribute(p))
		}, kind: tree.File, want: "longer than before"},
		"now a symlink": {change: func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.Symlink(p+".old", p)) }, kind: tree.Symlink},
		"now a fifo": {change: func(p string) error {
			return errors.Join(os.Rename(p, p+".old"), unix.Mkfifo(p, 0o640), os.Chown(p, 7, 8))
		}, kind: tree.Fifo},
		"now a device": {change: func(p string) error {
			return errors.Join(os.Remove(p), unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}, kind: tree.CharDevice},
		"now a folder": {change: func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.Mkdir(p, 0o700)) }, err: tree.ErrFolder},
		"folder a symlink": {change: func(p string) error {
			d := filepath.Dir(p)
			return errors.Join(os.Rename(d, d+".old"), os.Symlink(d+".old", d))
		}, err: tree.ErrVanished},
		"folder a file": {change: func(p string) error {
			d := filepath.Dir(p)
			return errors.Join(os.Rename(d, d+".old"), os.WriteFile(d, nil, 0o600))
		}, err: tree.ErrVanished},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/f", "content")
			entries, _ := walk(t, dir)
			r := openRoot(t, dir)
			if _, err := r.Open(entries[1], nil); err == nil {
				t.Error("a folder was opened for its content")
			}
			if err := c.change(filepath.Join(dir, "d/f")); err != nil {
				t.Fatal(err)
			}
			e, before := entries[2], *entries[2]
			f, err := r.Open(e, func(w tree.Warning) { t.Error(w) })
			if c.kind == 0 {
				if f != nil || !errors.Is(err, c.err) || !reflect.DeepEqual(*e, before) {
					t.Errorf("got %v, %v, entry %+v", f, err, e)
				}
				return
			}
			if err != nil || (f != nil) != (c.kind == tree.File) {
				t.Fatalf("got %v, %v", f, err)
			}
			if f != nil {
				defer f.Close()
				if err := r.ReadFlags(e, f); err != nil {
					t.Error(err)
				}
				got, err := io.ReadAll(f)
				if err != nil || string(got) != c.want {
					t.Errorf("read %q, %v", got, err)
				}
			}
			now, _ := walk(t, dir)
			want := *now[2] // a walk reads no flags of a file
			want.Flags, want.Project = e.Flags, e.Project
			if e.Kind != c.kind || !reflect.DeepEqual(*e, want) {
				t.Errorf("the entry is %+v, want %+v", *e, want)
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
	f, err := openRoot(t, dir).Open(entries[1], nil)
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
	f, err := r.Open(e, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if same, err := r.Unchanged(e, f); !same || err != nil {
		t.Errorf("untouched: %v %v", same, err)
	}
	// The change time still gives away a writer that puts the time of the content back.
	// The kernel's clock for it ticks every few milliseconds.
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
			f, err := r.Open(e, nil)
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
			for r := range tree.DataRanges(f, c.ask) {
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

// TestFolderWithoutPermissionIsALoss walks as a user without permission to read
// everything: the folder is there, without its content.
func TestFolderWithoutPermissionIsALoss(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	write(t, dir, "a/locked/f", "", "a/z", "")
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "a/locked"), 0o700); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		entries, losses := walk(t, dir)
		if got := paths(entries); !slices.Equal(got, []string{"", "a", "a/locked", "a/z"}) || entries[2].Mode != 0o700 {
			t.Errorf("got %q", got)
		}
		if len(losses) != 1 || losses[0].Path != "a/locked" || !losses[0].Lost || !strings.Contains(losses[0].What, "permission denied") {
			t.Errorf("losses: %v", losses)
		}
		if err := os.Chmod(dir, 0o755); err == nil {
			t.Error("the test runs as root")
		}
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if r, err := tree.OpenRoot(dir); err == nil {
			t.Error("a root that can't be read is opened")
			r.Close()
		}
	})
}

func paths(entries []*tree.Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Path)
	}
	return all
}
