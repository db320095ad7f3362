package vault

import (
	"bytes"
	"math"
	"testing"

	"holdfast/internal/tree"
)

func statItems(stats ...Item) []Item {
	items := []Item{{Entry: tree.Entry{Kind: tree.Dir, Ino: 7}}}
	for i, s := range stats {
		s.Kind, s.Size = tree.File, 1
		items = append(items, s, Item{Continued: true}, Item{Entry: tree.Entry{Kind: tree.File}}, Item{Entry: tree.Entry{Kind: tree.Symlink, Size: int64(i)}})
	}
	return items
}

func statOf(ino uint64, sec int64, nsec uint32) Item {
	return Item{Entry: tree.Entry{Ino: ino, Ctime: tree.Time{Sec: sec, Nsec: nsec}}}
}

// TestStatPage: inodes and times of files come back, and those without an inode have no time.
func TestStatPage(t *testing.T) {
	want := statItems(
		statOf(12, 1700000000, 5), statOf(13, 1700000000, 999999999), statOf(0, 1700000001, 4), statOf(11, -1, 0),
		statOf(math.MaxUint64, math.MaxInt64, 1), statOf(1, math.MinInt64, 2),
	)
	b := appendStats(nil, want)
	got := statItems(make([]Item, 6)...)
	if err := setStats(b, got); err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		if !statted(&w) || w.Ino == 0 {
			w.Ino, w.Ctime = got[i].Ino, tree.Time{}
		}
		if statted(&w) && (got[i].Ino != w.Ino || got[i].Ctime != w.Ctime) {
			t.Errorf("item %d: %d, %v, want %d, %v", i, got[i].Ino, got[i].Ctime, w.Ino, w.Ctime)
		}
	}
	for _, other := range [][]Item{nil, want[:5], statItems(make([]Item, 7)...)} {
		if setStats(b, other) == nil {
			t.Errorf("the stat page of %d items fits %d", len(want), len(other))
		}
	}
	for n := range b {
		if setStats(b[:n], got) == nil {
			t.Errorf("%d of %d bytes are taken", n, len(b))
		}
	}
	if setStats(append(b, 0), got) == nil {
		t.Error("a byte more is taken")
	}
}

// FuzzStatPage: whatever decodes encodes to a page that decodes to the same, and nothing crashes.
func FuzzStatPage(f *testing.F) {
	f.Add([]byte{0}, 0)
	f.Add(appendStats(nil, statItems(statOf(1, 2, 3), statOf(0, 0, 0), statOf(9, -9, 999999999))), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 64 {
			return
		}
		items := statItems(make([]Item, n)...)
		if setStats(b, items) != nil {
			return
		}
		once := appendStats(nil, items)
		again := statItems(make([]Item, n)...)
		if err := setStats(once, again); err != nil {
			t.Fatal(err)
		}
		if twice := appendStats(nil, again); !bytes.Equal(once, twice) {
			t.Fatalf("two encodings: %x, %x", once, twice)
		}
	})
}
