package known

import (
	"slices"

	"holdfast/internal/vault"
)

const (
	// WholeExtents is how many extents of a file are held in memory
	// without regard to its size: 4 GiB of average chunks.
	WholeExtents = 64 << 10
	extentMemory = 48 // the memory of a vault.Extent, bytes
)

// Stretch is a run of content that is stored: its extents, and of a
// database the sums of their pieces.
type Stretch struct {
	Extents []vault.Extent
	Sums    []vault.PieceSum // nil, or as many as the extents have pieces
}

// Memory is about the memory of a stretch, bytes.
func (s *Stretch) Memory() int64 {
	return int64(len(s.Extents))*extentMemory + int64(len(s.Sums))*int64(len(vault.PieceSum{}))
}

// Add appends the part that follows.
func (s *Stretch) Add(x vault.Extent, sums []vault.PieceSum) {
	s.Extents = append(s.Extents, x)
	s.Sums = append(s.Sums, sums...)
}

// First splits the stretch behind its first n extents.
func (s Stretch) First(n int) (first, rest Stretch) {
	first.Extents, rest.Extents = s.Extents[:n:n], s.Extents[n:]
	if len(s.Sums) > 0 {
		k := vault.Pieces(first.Extents)
		first.Sums, rest.Sums = s.Sums[:k:k], s.Sums[k:]
	}
	return first, rest
}

// Frames holds the last backup's facts about the content
// of a database. It is constant, and nil holds none.
type Frames struct {
	Stretch       // sums are as many as the extents have pieces
	begin   []int // of each extent, the place of its first sum
	gone    map[vault.PackID]bool
}

// framed tells whether extents are such as databases have.
func framed(extents []vault.Extent) bool {
	return len(extents) > 0 && !slices.ContainsFunc(extents, func(x vault.Extent) bool { return x.Off%vault.PieceSize != 0 })
}

// NewFrames returns nil where nothing is known.
func NewFrames(known Stretch, gone map[vault.PackID]bool) *Frames {
	if len(known.Extents) == 0 {
		return nil
	}
	f := &Frames{Stretch: known, begin: make([]int, len(known.Extents)), gone: gone}
	n := 0
	for i := range known.Extents {
		f.begin[i] = n
		n += known.Extents[i].Pieces()
	}
	if len(f.Sums) != n {
		f.Sums = make([]vault.PieceSum, n) // none is known
	}
	return f
}

// Find returns where the vault has the piece of n bytes that lay at
// off, and its sum, which may not be known.
func (f *Frames) Find(off int64, n int) (x vault.Extent, sum vault.PieceSum, ok bool) {
	if f == nil {
		return x, sum, false
	}
	i, found := slices.BinarySearchFunc(f.Extents, off, func(x vault.Extent, off int64) int {
		switch {
		case x.Off+int64(x.Len) <= off:
			return -1
		case x.Off > off:
			return 1
		}
		return 0
	})
	if !found {
		return x, sum, false
	}
	x = f.Extents[i]
	end, cell := x.Off+int64(x.Len), off/vault.PieceSize*vault.PieceSize
	// The sum covers all bytes of this piece that the extent has.
	if max(x.Off, cell) != off || min(end, cell+vault.PieceSize) != off+int64(n) || f.gone[x.Chunk.Pack] {
		return x, sum, false
	}
	return Clip(x, off, off+int64(n)), f.Sums[f.begin[i]+int(off/vault.PieceSize-x.Off/vault.PieceSize)], true
}

// Clip is the part of x from from to to, which has no length when they are the wrong way round.
func Clip(x vault.Extent, from, to int64) vault.Extent {
	if to <= from {
		return vault.Extent{}
	}
	return vault.Extent{Off: from, Chunk: x.Chunk, In: x.In + uint32(from-x.Off), Len: uint32(to - from)}
}
