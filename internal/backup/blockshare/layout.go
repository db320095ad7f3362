package blockshare

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"

	"holdfast/internal/image"
	"holdfast/internal/snapshot"
)

// maxExtents bounds the known extents of an image; content behind the last of them is read.
const maxExtents = 1 << 18

// blockKey is made of the addresses of all blocks of a chunk: half
// a SHA-256, so that no two are ever the same by chance.
type blockKey [16]byte

// layout says where the blocks of an image lie.
type layout struct {
	space   string
	size    int64
	grid    int64
	extents []snapshot.Extent
	end     int64 // up to where they are known
}

// layoutOf is empty for devices, and where the file system does not tell.
func layoutOf(img *image.Image, grid int64) *layout {
	l := &layout{size: img.Size(), grid: grid}
	space, err := snapshot.AddressSpace(img.File())
	if err != nil || img.Device() {
		return l
	}
	l.space = space
	for e, err := range snapshot.Extents(img.File()) {
		if err != nil || len(l.extents) == maxExtents {
			return l
		}
		l.extents = append(l.extents, e)
		l.end = e.End()
	}
	l.end = l.size
	return l
}

// key returns the key of the chunk at that multiple of the grid;
// false when the addresses do not determine the chunk's content.
func (l *layout) key(at int64) (blockKey, bool) {
	end := min(at+l.grid, l.size)
	if end > l.end {
		return blockKey{}, false
	}
	b := binary.AppendUvarint([]byte(l.space+"\x00"), uint64(end-at))
	i := sort.Search(len(l.extents), func(i int) bool { return l.extents[i].End() > at })
	var last snapshot.Extent // the run so far
	flush := func() {
		if last.Length > 0 {
			for _, n := range []uint64{uint64(last.Logical - at), uint64(last.Length), last.Physical, last.Inside} {
				b = binary.AppendUvarint(b, n)
			}
		}
	}
	for ; i < len(l.extents) && l.extents[i].Logical < end; i++ {
		e := l.extents[i]
		from, to := max(e.Logical, at), min(e.End(), end)
		switch {
		case e.Vague:
			return blockKey{}, false
		case e.Zero:
			continue
		case e.Encoded:
			e.Inside += uint64(from-e.Logical) + 1 // so that it is not 0, as for blocks without encoding
		default:
			e.Physical += uint64(from - e.Logical)
		}
		e.Logical, e.Length = from, to-from
		joins := last.End() == e.Logical && !e.Encoded && !last.Encoded && last.Physical+uint64(last.Length) == e.Physical ||
			last.End() == e.Logical && e.Encoded && last.Encoded && last.Physical == e.Physical && last.Inside+uint64(last.Length) == e.Inside
		if joins && last.Length > 0 {
			last.Length += e.Length
			continue
		}
		flush()
		last = e
	}
	if last.Length == 0 {
		return blockKey{}, false // a hole; nothing to save
	}
	flush()
	sum := sha256.Sum256(b)
	return blockKey(sum[:16]), true
}
