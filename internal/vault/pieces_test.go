package vault

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"testing"
)

// databaseItems returns items of count extents each, of n bytes, with sums.
func databaseItems(items, count int, n uint32) []Item {
	all := make([]Item, items)
	for i := range all {
		it := &all[i]
		it.Path, it.Continued = "db", true
		for k := range count {
			it.Extents = append(it.Extents, Extent{Off: int64(i*count+k) * int64(n), Chunk: Loc{Pack: PackID{1}, Off: 4096, Len: n, Raw: n}, Len: n})
		}
		it.Sums = make([]PieceSum, Pieces(it.Extents))
		for k := range it.Sums {
			_, _ = rand.Read(it.Sums[k][:]) // crypto/rand.Read never fails
		}
	}
	return all
}

// TestCatalogueOfAnySums: a page whose sums would make its block too long is kept without the sums.
func TestCatalogueOfAnySums(t *testing.T) {
	p := DefaultParams()
	p.Chunk.Max, p.Pack = 1<<20, 4<<20
	v := fuzzVaultWith(t, p)
	for _, c := range []struct {
		items int
		sums  bool
	}{{1, true}, {3, true}, {5, false}} {
		var file bytes.Buffer
		w, err := v.NewCatalogue(&file, Evidence{FileSystem: "ext4"})
		if err != nil {
			t.Fatal(err)
		}
		items := databaseItems(c.items, MaxExtents/4, 1<<20)
		if err := errors.Join(w.Items(items), w.Items(items[:1]), w.Close()); err != nil {
			t.Fatal(err)
		}
		r, err := v.OpenCatalogue(&file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Next()
		if err != nil || len(got) != c.items {
			t.Fatalf("%d items of %d: %v", len(got), c.items, err)
		}
		for i := range got {
			if want := items[i].Sums; c.sums && !slices.Equal(got[i].Sums, want) || !c.sums && got[i].Sums != nil {
				t.Errorf("of %d items, item %d has %d sums of %d", c.items, i, len(got[i].Sums), len(want))
			}
		}
		if got, err = r.Next(); err != nil || !slices.Equal(got[0].Sums, items[0].Sums) {
			t.Errorf("the page behind: %v", err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
	}
}

// FuzzSums: whatever fits the items encodes to the same, and
// nothing crashes or takes memory that the page does not have.
func FuzzSums(f *testing.F) {
	items := slices.Concat(databaseItems(1, 3, 20000), make([]Item, 2), databaseItems(2, 1, 8192))
	b, err := appendSums(nil, items)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{0})
	f.Add([]byte{2, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := slices.Clone(items)
		for i := range got {
			got[i].Sums = nil
		}
		if setSums(b, got) != nil {
			return
		}
		for i := range got {
			if n := len(got[i].Sums); n != 0 && n != Pieces(got[i].Extents) {
				t.Fatalf("item %d has %d sums", i, n)
			}
		}
		once, err := appendSums(nil, got)
		if err != nil {
			t.Fatal(err)
		}
		again := slices.Clone(got)
		if err := setSums(once, again); err != nil {
			t.Fatal(err)
		}
		if twice, err := appendSums(nil, again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("two encodings: %x, %x, %v", once, twice, err)
		}
	})
}
