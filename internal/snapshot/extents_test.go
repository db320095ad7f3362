package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

const (
	block     = 4096
	fileSize  = 96 * block // of the files that are changed at random
	seedRange = 300        // rounds per kind of file
)

// After any kind of operation on a file, the changed ranges hold every byte that
// differs, and after plain writes no more than the blocks that were written.
func TestChangedRangesAtRandom(t *testing.T) {
	t.Parallel() // it waits for the disk
	testbed.Need(t, "btrfs", "xfs")
	btrfs, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	for _, c := range []struct{ what, dir, set string }{
		{"btrfs", btrfs, ""}, {"btrfs nocow", btrfs, "chattr +C"}, {"btrfs compressed", btrfs, "btrfs property set DIR compression zstd"}, {"xfs", xfs, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, filepath.Join(c.dir, strings.ReplaceAll(c.what, " ", "-")))
			switch {
			case strings.Contains(c.set, "DIR"):
				command(t, strings.Fields(strings.ReplaceAll(c.set, "DIR", dir))...)
			case c.set != "":
				command(t, append(strings.Fields(c.set), dir)...)
			}
			testRanges(t, dir, uint64(len(c.what)))
		})
	}
}

func testRanges(t *testing.T, dir string, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(dir, "file")
	m := &mutator{t: t, rnd: rnd, path: path, donor: filepath.Join(dir, "donor")}
	must(t, os.WriteFile(path, m.bytes(fileSize), 0o600))
	must(t, os.WriteFile(m.donor, m.bytes(fileSize), 0o600))
	p := provider(t, "reflink")
	var bases []*snapshot.Snapshot
	var looked, listed, wrote int64
	for round := range seedRange {
		now, err := p.Create(t.Context(), snapshot.Request{Volume: path, Host: "h", Job: fmt.Sprint(round), Name: "v"})
		must(t, err)
		for i, base := range bases {
			ranges, exact := changed(t, base, now).Image()
			a, b := readFile(t, base.Image), readFile(t, now.Image)
			checkCovered(t, fmt.Sprintf("seed %d, round %d against %s", seed, round, base.Image), a, b, ranges)
			if !exact {
				t.Errorf("seed %d, round %d: not exact", seed, round)
			}
			if m.plain && i == len(bases)-1 {
				looked++
				for _, r := range ranges {
					listed += r.Length
				}
				wrote += int64(len(m.touched)) * block
			}
		}
		if bases = append(bases, now); len(bases) > 3 {
			must(t, p.Remove(t.Context(), bases[0].Ref))
			bases = bases[1:]
		}
		m.change()
	}
	if looked < seedRange/4 || float64(listed) > 1.5*float64(wrote) {
		t.Errorf("%d rounds of plain writes: %d bytes written, %d listed", looked, wrote, listed)
	}
}

// checkCovered fails when a byte differs outside of the ranges, or when these are not in order.
func checkCovered(t *testing.T, what string, a, b []byte, ranges []snapshot.Range) {
	t.Helper()
	pos := int64(0)
	for _, r := range append(slices.Clone(ranges), snapshot.Range{Offset: int64(len(b))}) {
		if r.Offset < pos || r.End() > int64(len(b)) {
			t.Fatalf("%s: ranges %v of %d bytes", what, ranges, len(b))
		}
		if pos < r.Offset && (r.Offset > int64(len(a)) || !bytes.Equal(a[pos:r.Offset], b[pos:r.Offset])) {
			t.Fatalf("%s: a byte between %d and %d differs, ranges %v", what, pos, r.Offset, ranges)
		}
		pos = r.End()
	}
}

// mutator changes a file at random.
type mutator struct {
	t           *testing.T
	rnd         *rand.Rand
	path, donor string
	plain       bool           // the last change was writes inside the file only
	touched     map[int64]bool // the blocks that they wrote
}

// bytes gives content that compresses to about half, and never to the same twice.
func (m *mutator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rnd.Uint32()) & 0x5f
	}
	return b
}

func (m *mutator) change() {
	m.plain, m.touched = m.rnd.IntN(2) == 0, map[int64]bool{}
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	must(m.t, err)
	defer f.Close()
	donor, err := os.OpenFile(m.donor, os.O_RDWR, 0)
	must(m.t, err)
	defer donor.Close()
	for range 1 + m.rnd.IntN(4) {
		st, err := f.Stat()
		must(m.t, err)
		size := max(st.Size(), block)
		at := m.rnd.Int64N(size)
		n := 1 + m.rnd.Int64N(8*block)
		if m.rnd.IntN(2) == 0 {
			at, n = at/block*block, (n+block-1)/block*block
		}
		op := 0
		if !m.plain {
			op = m.rnd.IntN(9)
		}
		var e error
		switch op {
		case 0:
			n = min(n, size-at)
			_, e = f.WriteAt(m.bytes(int(n)), at)
			for b := at / block; b <= (at+n-1)/block; b++ {
				m.touched[b] = true
			}
		case 1:
			_, e = f.WriteAt(m.bytes(int(n)), st.Size()) // append
		case 2:
			e = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
		case 3:
			e = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, at, n)
		case 4:
			e = f.Truncate(min(at+n, 2*fileSize))
		case 5:
			e = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, n)
		case 6: // from another file
			from := m.rnd.Int64N(fileSize/block-8) * block
			e = cloneRange(f, donor, at/block*block, from, 8*block)
		case 7: // from elsewhere in the same file, so that encoded runs are cut
			from, to := m.rnd.Int64N(size/block+1)*block, at/block*block
			if length := min(8, max(to, from)/block-min(to, from)/block, (st.Size()-from)/block) * block; length > 0 {
				e = cloneRange(f, f, to, from, length)
			}
		case 8:
			e = f.Sync()
		}
		if errors.Is(e, unix.EINVAL) && op >= 6 && op <= 7 {
			e = nil // a file of another form of extents (nocow) does not share with it
		}
		must(m.t, e)
	}
	_, err = donor.WriteAt(m.bytes(block), m.rnd.Int64N(fileSize-block))
	must(m.t, err)
}

func cloneRange(to, from *os.File, offset, start, length int64) error {
	return unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.Fd()), Src_offset: uint64(start), Src_length: uint64(length), Dest_offset: uint64(offset),
	})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// The trees of btrfs and FIEMAP tell the same of plain files; of
// compressed ones FIEMAP tells nothing that could be compared.
func TestTreeAgreesWithFiemap(t *testing.T) {
	testbed.Need(t, "btrfs")
	root := testbed.Btrfs(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	for _, compressed := range []bool{false, true} {
		dir := folder(t, filepath.Join(root, fmt.Sprint(compressed)))
		if compressed {
			command(t, "btrfs", "property", "set", dir, "compression", "zstd")
		}
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, nil, 0o600))
		// More extents than one call of either gives.
		for range 1500 {
			overwrite(t, path, rnd.Int64N(20000)*2*block, bytes.Repeat([]byte("abcd"), block/4*(1+rnd.IntN(2))))
			if rnd.IntN(200) == 0 {
				command(t, "sync", path)
			}
		}
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		tree := collect(t, snapshot.Extents(f))
		plain := collect(t, snapshot.Fiemap(f))
		if len(tree) < 1000 {
			t.Errorf("%d extents", len(tree))
		}
		if compressed {
			encoded := map[int64]bool{}
			for _, e := range tree {
				if e.Encoded {
					encoded[e.Logical] = true
				}
				if e.Vague {
					t.Fatalf("the tree tells of %+v", e)
				}
			}
			for _, e := range plain {
				if encoded[e.Logical] && !e.Vague {
					t.Fatalf("FIEMAP tells of %+v", e)
				}
			}
			if len(encoded) < 100 {
				t.Errorf("%d encoded extents", len(encoded))
			}
			continue
		}
		if !slices.Equal(join(tree), join(plain)) {
			t.Errorf("tree:   %v\nFIEMAP: %v", join(tree), join(plain))
		}
	}
}

func collect(t *testing.T, list iter.Seq2[snapshot.Extent, error]) []snapshot.Extent {
	t.Helper()
	var all []snapshot.Extent
	for e, err := range list {
		must(t, err)
		all = append(all, e)
	}
	return all
}

// join puts extents together that go on in the file and on the device.
func join(list []snapshot.Extent) []snapshot.Extent {
	var out []snapshot.Extent
	for _, e := range list {
		if k := len(out); k > 0 && out[k-1].End() == e.Logical && out[k-1].Physical+uint64(out[k-1].Length) == e.Physical && out[k-1].Zero == e.Zero {
			out[k-1].Length += e.Length
			continue
		}
		out = append(out, e)
	}
	return out
}

// Clones share addresses, in one address space over all subvolumes;
// copies and other file systems do not.
func TestAddressSpace(t *testing.T) {
	testbed.Need(t, "btrfs", "xfs")
	root, xfs := testbed.Btrfs(t), testbed.Xfs(t)
	a, b := subvolume(t, filepath.Join(root, "a")), subvolume(t, filepath.Join(root, "b"))
	content := bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16)
	must(t, os.WriteFile(a+"/file", content, 0o600))
	command(t, "cp", "--reflink=always", a+"/file", b+"/clone")
	must(t, os.WriteFile(b+"/copy", content, 0o600))
	must(t, os.WriteFile(xfs+"/copy", content, 0o600))
	open := func(path string) *os.File {
		f, err := os.Open(path)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	space := func(path string) string {
		s, err := snapshot.AddressSpace(open(path))
		must(t, err)
		return s
	}
	if space(a+"/file") != space(b+"/clone") || space(a+"/file") == space(xfs+"/copy") {
		t.Errorf("%s, %s, %s", space(a+"/file"), space(b+"/clone"), space(xfs+"/copy"))
	}
	first := collect(t, snapshot.Extents(open(a+"/file")))
	if got := collect(t, snapshot.Extents(open(b+"/clone"))); !slices.Equal(got, first) {
		t.Errorf("clone %v, source %v", got, first)
	}
	for path, want := range map[string]int64{b + "/clone": 0, b + "/copy": int64(len(content))} {
		ranges, _, err := snapshot.ChangedRanges(open(a+"/file"), open(path))
		must(t, err)
		var sum int64
		for _, r := range ranges {
			sum += r.Length
		}
		if sum != want {
			t.Errorf("%s: %d bytes differ, want %d", path, sum, want)
		}
	}
	for what, pair := range map[string][2]string{
		"another file system": {a + "/file", xfs + "/copy"}, "a folder": {a, b + "/copy"}, "no file": {a + "/file", "/dev/zero"},
	} {
		if _, _, err := snapshot.ChangedRanges(open(pair[0]), open(pair[1])); !errors.Is(err, snapshot.ErrBase) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A list of ranges never grows beyond its limit, and loses nothing.
func TestRangesAreJoined(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []snapshot.Range
	for pos := int64(0); len(all) < 5000; pos += 1 + rnd.Int64N(50000) {
		r := snapshot.Range{Offset: pos, Length: 1 + rnd.Int64N(9000)}
		all, pos = append(all, r), r.End()
	}
	for _, limit := range []int{1, 2, 100, 5000, 6000} {
		got := snapshot.JoinRanges(limit, all)
		if len(got) > limit || limit >= len(all) && len(got) != len(all) {
			t.Errorf("limit %d: %d ranges", limit, len(got))
		}
		i := 0
		for _, r := range all {
			for i < len(got) && got[i].End() < r.End() {
				i++
			}
			if i == len(got) || got[i].Offset > r.Offset {
				t.Fatalf("limit %d: %v is lost", limit, r)
			}
		}
	}
}

// Content that lies inside the trees of btrfs has no address: it is
// listed when its file changed, and said to be in doubt.
func TestInlineContent(t *testing.T) {
	testbed.Need(t, "btrfs")
	vol := subvolume(t, filepath.Join(testbed.Btrfs(t), "vol"))
	path := filepath.Join(vol, "small")
	must(t, os.WriteFile(path, []byte("small"), 0o600))
	base := viewOf(t, "btrfs", vol, "base")
	must(t, os.Chmod(path, 0o644))
	now := viewOf(t, "btrfs", vol, "now")
	ranges, exact, err := changed(t, base, now).File(inode(t, path), 5)
	if err != nil || exact || !slices.Equal(ranges, []snapshot.Range{{Offset: 0, Length: 5}}) {
		t.Errorf("%v, %v, %v", ranges, exact, err)
	}
	// A new file, and a file that is longer than the view says, differ in whole.
	must(t, os.WriteFile(vol+"/new", make([]byte, 9000), 0o600))
	c := changed(t, base, viewOf(t, "btrfs", vol, "later"))
	for _, ino := range []uint64{inode(t, vol+"/new"), inode(t, path)} {
		if ranges, _, err := c.File(ino, 9000); err != nil || !slices.Equal(ranges, []snapshot.Range{{Offset: 0, Length: 9000}}) {
			t.Errorf("%v, %v", ranges, err)
		}
	}
}

// Items that are cut short are errors, not crashes.
func TestShortItems(t *testing.T) {
	full := make([]byte, 160)
	full[20] = 1 // an extent on the device
	for n := range full {
		if snapshot.ParseItems(full[:n]) == nil {
			t.Errorf("%d bytes pass", n)
		}
	}
	if err := snapshot.ParseItems(full); err != nil {
		t.Error(err)
	}
	full[20] = 7
	if snapshot.ParseItems(full) == nil {
		t.Error("an extent of an unknown kind passes")
	}
}
