package index

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"sync"

	"holdfast/internal/chunk"
	"holdfast/internal/vault/format"
)

// rowTable holds the rows that a writer adds, until they are written as a segment:
// 48 bytes a row in pages, so that growing copies nothing, and an open-addressing
// table of row numbers, at most half full; 60 bytes a row all in all, where a Go
// map has 150. One goroutine at a time adds, any number look up meanwhile.
type rowTable struct {
	mu    sync.RWMutex
	pages [][]byte // of tablePage rows each, as in a segment's block
	n     int
	slots []uint32 // number of the row plus one; the length is a power of two
	packs []format.PackRef
}

const (
	tablePage = 1 << 10 // rows
	tableRows = 1 << 17 // when there are so many rows, they are written as a segment
)

func newRowTable() *rowTable { return &rowTable{slots: make([]uint32, 1<<10)} }

func (t *rowTable) row(i int) []byte {
	return t.pages[i/tablePage][i%tablePage*indexRowSize:][:indexRowSize]
}

// slot returns where the name's row number is, or where it belongs.
func (t *rowTable) slot(name *chunk.Name) int {
	mask := len(t.slots) - 1
	at := int(binary.LittleEndian.Uint64(name[24:])) & mask
	for t.slots[at] != 0 && chunk.Name(t.row(int(t.slots[at])-1)) != *name {
		at = (at + 1) & mask
	}
	return at
}

func (t *rowTable) find(name *chunk.Name) (format.Loc, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.slots[t.slot(name)]
	if n == 0 {
		return format.Loc{}, false
	}
	row := t.row(int(n) - 1)
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(row[32+4*i:]) }
	return format.Loc{Pack: t.packs[u(0)].ID, Off: u(1), Len: u(2), Raw: u(3)}, true
}

// add adds a row of a name that the table does not have. Rows of one pack are
// added one after the other, and sizePack follows when the pack's size is known.
func (t *rowTable) add(name chunk.Name, loc format.Loc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.packs) == 0 || t.packs[len(t.packs)-1].ID != loc.Pack {
		t.packs = append(t.packs, format.PackRef{ID: loc.Pack})
	}
	if t.n%tablePage == 0 {
		t.pages = append(t.pages, make([]byte, tablePage*indexRowSize))
	}
	row := append(t.row(t.n)[:0], name[:]...)
	for _, u := range [...]uint32{uint32(len(t.packs) - 1), loc.Off, loc.Len, loc.Raw} {
		row = binary.LittleEndian.AppendUint32(row, u)
	}
	t.n++
	t.slots[t.slot(&name)] = uint32(t.n)
	if 2*t.n > len(t.slots) {
		t.slots = make([]uint32, 2*len(t.slots))
		for i := range t.n {
			name := chunk.Name(t.row(i))
			t.slots[t.slot(&name)] = uint32(i + 1)
		}
	}
}

// sizePack notes the size of the pack whose rows were added last.
// It does nothing for a pack without rows.
func (t *rowTable) sizePack(p format.PackRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.packs); n > 0 && t.packs[n-1].ID == p.ID {
		t.packs[n-1].Size = p.Size
	}
}

// refs returns the packs of the rows.
func (t *rowTable) refs() []format.PackRef {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.packs)
}

// write writes the rows, of which there is at least one, as a
// segment to w. Nobody may add any more.
func (t *rowTable) write(in Place, w io.Writer) (SegmentID, shape, error) {
	order := make([]uint32, t.n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return bytes.Compare(t.row(int(a))[:32], t.row(int(b))[:32]) })
	s := in.newSegmentWriter(w, t.n)
	for _, i := range order {
		row := t.row(int(i))
		u := func(i int) uint32 { return binary.LittleEndian.Uint32(row[32+4*i:]) }
		if err := s.add(chunk.Name(row), u(0), u(1), u(2), u(3)); err != nil {
			return s.id, shape{}, err
		}
	}
	sh, err := s.finish(t.packs, nil)
	return s.id, sh, err
}
