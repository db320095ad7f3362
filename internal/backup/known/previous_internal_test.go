package known

import (
	"io"
	"testing"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestSumsInMemory: of a database that has more sums than are held
// in memory nothing is known, however few its extents are.
func TestSumsInMemory(t *testing.T) {
	const size, part = 32 << 20, 256
	for parts, want := range map[int]bool{1: true, 2: true, 3: false} {
		var items []vault.Item
		for i := range parts {
			it := vault.Item{Entry: tree.Entry{Path: "db"}, Continued: i > 0}
			if i == 0 {
				it.Entry = tree.Entry{Path: "db", Kind: tree.File, Size: int64(parts * part * size)}
			}
			for k := range part {
				it.Extents = append(it.Extents, vault.Extent{Off: int64(i*part+k) * size, Len: size})
			}
			it.Sums = make([]vault.PieceSum, vault.Pieces(it.Extents))
			items = append(items, it)
		}
		next := tree.Entry{Path: "e", Kind: tree.File}
		p := &Previous{clock: func() time.Duration { return 0 }, next: func() ([]vault.Item, error) {
			if len(items) == 0 {
				return nil, io.EOF
			}
			page := items[:1]
			items = items[1:]
			return page, nil
		}}
		e := tree.Entry{Path: "db", Kind: tree.File, Size: int64(parts * part * size)}
		k, ok := p.Find(&e)
		if n := len(k.Extents); ok != want || ok && (n != parts*part || len(k.Sums) != vault.Pieces(k.Extents)) {
			t.Errorf("%d parts: %v, %d extents, %d sums", parts, ok, n, len(k.Sums))
		}
		if _, ok := p.Find(&next); ok {
			t.Error("a file is known that the catalogue does not have")
		}
	}
}
