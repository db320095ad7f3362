package index

import (
	"context"
	"encoding/binary"
	"slices"

	"holdfast/internal/chunk"
	"holdfast/internal/vault/format"
)

// StoreOf is Store for the rows of those packs alone. Of the segments that lie
// on the local disk already, it stores those segments that list no other pack.
func (x *Index) StoreOf(ctx context.Context, packs map[format.PackID]bool) error {
	x.own = slices.DeleteFunc(x.own, func(s *segment) bool {
		for i := range s.packs {
			if !packs[s.pack(i)] {
				return false
			}
		}
		if x.in.storeSegment(ctx, s) != nil {
			return false // Close discards it
		}
		s.path = x.dir.keep(s.path, s.id)
		return true
	})
	view := x.view.Load()
	for _, t := range append(slices.Clone(view.frozen), view.active) {
		if some := t.of(packs); some.n > 0 {
			if err := x.storeTable(ctx, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// of returns a table with the rows of those packs.
func (t *rowTable) of(packs map[format.PackID]bool) *rowTable {
	some := newRowTable()
	for i := range t.n {
		row := t.row(i)
		u := func(i int) uint32 { return binary.LittleEndian.Uint32(row[32+4*i:]) }
		if p := t.packs[u(0)]; packs[p.ID] {
			some.add(chunk.Name(row), format.Loc{Pack: p.ID, Off: u(1), Len: u(2), Raw: u(3)})
			some.sizePack(p)
		}
	}
	return some
}
