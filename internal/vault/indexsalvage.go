package vault

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"holdfast/internal/chunk"
)

// salvagePatience is how long a writer that gives up tries to store its rows.
const salvagePatience = 10 * time.Second

// salvage makes the arrived packs of an aborted writer known, so that the next
// writer does not send them again. A caller that has journalled the packs' ids
// takes the packs up with Resume and needs no salvage. It is best effort:
// packs that no segment lists do no harm, and RebuildIndex finds them.
func (w *Writer) salvage() {
	if w.opts.Intent != nil || len(w.packs) == 0 {
		return
	}
	arrived := make(map[PackID]bool, len(w.packs))
	for _, p := range w.packs {
		arrived[p.ID] = true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), salvagePatience)
	defer cancel()
	_ = w.idx.storeOf(ctx, arrived)
}

// storeOf is store for the rows of those packs alone. Of the segments that lie
// on the local disk already, it stores those segments that list no other pack.
func (x *index) storeOf(ctx context.Context, packs map[PackID]bool) error {
	x.own = slices.DeleteFunc(x.own, func(s *segment) bool {
		for i := range s.packs {
			if !packs[s.pack(i)] {
				return false
			}
		}
		if x.v.storeSegment(ctx, s) != nil {
			return false // close discards it
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
func (t *rowTable) of(packs map[PackID]bool) *rowTable {
	some := newRowTable()
	for i := range t.n {
		row := t.row(i)
		u := func(i int) uint32 { return binary.LittleEndian.Uint32(row[32+4*i:]) }
		if p := t.packs[u(0)]; packs[p.ID] {
			some.add(chunk.Name(row), Loc{Pack: p.ID, Off: u(1), Len: u(2), Raw: u(3)})
			some.sizePack(p)
		}
	}
	return some
}
