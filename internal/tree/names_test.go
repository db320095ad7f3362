package tree

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// makeNames makes n empty files of random names, of any bytes, in
// dir, and returns the names, sorted.
func makeNames(t *testing.T, dir string, n int) []string {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(n)))
	all := make([]string, 0, n)
	for len(all) < n {
		b := make([]byte, 1+r.IntN(1<<r.IntN(9)))
		for i := range b {
			if b[i] = byte(1 + r.IntN(255)); b[i] == '/' {
				b[i] = 'x'
			}
		}
		if err := unix.Mknod(filepath.Join(dir, string(b)), unix.S_IFREG|0o600, 0); err == nil {
			all = append(all, string(b))
		}
	}
	slices.Sort(all)
	return all
}

// TestNamesOfLargeFolder lists names that fit in memory and names that do not, inside each other.
func TestNamesOfLargeFolder(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	outer, in := slices.Sorted(slices.Values(append(makeNames(t, dir, 2500), "inner"))), makeNames(t, inner, 1000)
	// Some names are in both folders with different inodes; of the others each name has one.
	numbers := map[string]uint64{}
	for _, name := range outer {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(in, name) {
			numbers[name] = st.Ino
		}
	}
	for memory, spills := range map[int]bool{0: false, 40_000: true, 3_000: true, 1: true} {
		n := &names{memory: memory}
		enter := func(dir string) {
			t.Helper()
			fd, err := openAt(unix.AT_FDCWD, dir, openDir, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer closeFD(fd)
			if cut, err := n.enter(fd, make([]byte, 4<<10)); err != nil || cut != nil {
				t.Fatal(cut, err)
			}
		}
		rest := func() []string {
			t.Helper()
			var all []string
			for {
				name, ino, err := n.next()
				if err != nil {
					t.Fatal(err)
				}
				if name == nil {
					return all
				}
				if want := numbers[name.String()]; want != 0 && ino != want {
					t.Errorf("memory %d: %q has inode %d, want %d", memory, name, ino, want)
				}
				all = append(all, name.String())
			}
		}
		enter(dir)
		var got []string
		for range 1000 {
			name, _, err := n.next()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, name.String())
		}
		end := n.file.end
		if (end > 0) != spills {
			t.Errorf("memory %d: %d bytes in the file", memory, end)
		}
		for range 2 { // the second in the room of the first
			enter(inner)
			if below := rest(); !slices.Equal(below, in) {
				t.Errorf("memory %d: the inner folder gives %d names, want %d", memory, len(below), len(in))
			}
			n.leave()
			if n.file.end != end {
				t.Errorf("memory %d: %d bytes of a folder that was left stay in the file", memory, n.file.end-end)
			}
		}
		if got = append(got, rest()...); !slices.Equal(got, outer) {
			t.Errorf("memory %d: %d names, want %d", memory, len(got), len(outer))
		}
		enter(inner)
		n.drop()
		if left := rest(); len(left) > 0 {
			t.Errorf("memory %d: %d names after they were dropped", memory, len(left))
		}
		n.leave()
		n.leave()
		if n.held != 0 || n.file.end != 0 || n.depth() != 0 {
			t.Errorf("memory %d: held %d, %d in the file", memory, n.held, n.file.end)
		}
		n.close()
	}
}

// TestNamesWithoutRoom: where names that do not fit in memory can't
// be put, the walk fails and leaves nothing out in silence.
func TestNamesWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	makeNames(t, dir, 3000)
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Setenv("TMPDIR", filepath.Join(dir, "missing"))
	seen := 0
	err = r.walk(t.Context(), &walker{names: names{memory: 1}, fn: func(*Entry) error { seen++; return nil }})
	if err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("%d entries, error %v", seen, err)
	}
}

// TestNameGivenTwice: a folder that changes while it is listed may
// give a name twice, also in two runs.
func TestNameGivenTwice(t *testing.T) {
	n := &names{lists: []*listing{{}}}
	defer n.close()
	l := n.lists[0]
	for _, name := range []string{"a", "b", "a", "", "c", "b", ""} {
		if name != "" {
			l.spans = append(l.spans, span{off: uint32(len(l.names)), len: uint16(len(name))})
			l.names = append(append(l.names, name...), 0)
		} else if err := n.spill(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.merge(l); err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, _, err := n.next(); name != nil; name, _, err = n.next() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name.String())
	}
	if strings.Join(got, "") != "abc" {
		t.Errorf("got %q", got)
	}
}

// TestLinks remembers more first names than stay in memory.
func TestLinks(t *testing.T) {
	var l links
	defer l.close()
	const files = 5000
	path := func(i uint64) string { return fmt.Sprint(i) + strings.Repeat("/d", int(i%500)) }
	id := func(i uint64) fileID { return fileID{dev: i % 3, ino: i / 3} }
	for i := range uint64(files) {
		if err := l.first(id(i), path(i), 1+uint32(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	if l.file.end == 0 {
		t.Error("nothing is in the file")
	}
	for times := range 3 {
		for i := range uint64(files) {
			p, ok, err := l.further(id(i))
			if want := uint64(times) <= i%2; err != nil || ok != want || ok && p != path(i) {
				t.Fatalf("time %d, file %d: %.20q %v %v, want %v", times, i, p, ok, err, want)
			}
		}
	}
	if len(l.seen) > 0 {
		t.Errorf("%d are remembered for nothing", len(l.seen))
	}
}

// TestWalkOfManyNames walks one folder of 200,000 long names in less memory than they take.
func TestWalkOfManyNames(t *testing.T) {
	const (
		files = 200_000
		limit = 4 << 20 // of memory, bytes; the names alone are 20 MB
	)
	dir := testbed.Tmpfs(t, "size=4g,nr_inodes=0")
	fd, err := openAt(unix.AT_FDCWD, dir, openDir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(fd)
	for i := range files {
		if err := unix.Mknodat(fd, fmt.Sprintf("%0100x", uint32(i)*2654435761), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var before, m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seen, last, most := 0, "", uint64(0)
	err = r.Walk(t.Context(), WalkOptions{NoXattrs: true}, func(e *Entry) error {
		if e.Path < last {
			t.Fatalf("%q after %q", e.Path, last)
		}
		last = e.Path
		if seen++; seen%50_000 == 2 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc-min(m.HeapAlloc, before.HeapAlloc))
		}
		return nil
	})
	if err != nil || seen != files+1 {
		t.Errorf("%d entries, %v", seen, err)
	}
	if most > limit {
		t.Errorf("the walk held %d bytes, want at most %d", most, limit)
	}
	t.Logf("the walk held %d bytes", most)
}
