package vault

import (
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/internal/chunk"
)

// A database is stored in frames, chunks that begin at fixed places of the file. When pages of the
// database change, a backup stores the pieces of a frame that changed, and its other extents go on
// naming the old frame. Which pieces changed follows from their sums: the catalogue of a host has a
// sum of each piece that the last backup saw.

// PieceSize is the size of a piece, bytes: two pages of the usual
// size of a database. Pieces begin at the multiples of PieceSize in
// the file. The first and the last piece of an extent may be shorter.
const PieceSize = 8 << 10

// PieceSum is the beginning of the name that a chunk with the content of the piece has (see
// Vault.Namer). The zero value says that the sum is not known, and is equal to no sum.
type PieceSum [16]byte

// Sum returns the sum of a piece whose content has that name.
func Sum(name chunk.Name) PieceSum { return PieceSum(name[:16]) }

// Known says whether the sum is known.
func (s PieceSum) Known() bool { return s != PieceSum{} }

// Pieces returns how many pieces an extent has.
func (x *Extent) Pieces() int {
	if x.Len == 0 {
		return 0
	}
	return int((x.Off+int64(x.Len)-1)/PieceSize - x.Off/PieceSize + 1)
}

// Pieces returns how many pieces the extents have.
func Pieces(extents []Extent) (n int) {
	for i := range extents {
		n += extents[i].Pieces()
	}
	return n
}

var errSums = errors.New("sums of pieces do not fit the page")

// appendSums appends the sums of all items that have some: the number of the item, counted from the
// item with sums before, then its sums.
func appendSums(b []byte, items []Item) ([]byte, error) {
	last := 0
	for i := range items {
		it := &items[i]
		if len(it.Sums) == 0 {
			continue
		}
		if len(it.Sums) != Pieces(it.Extents) {
			return nil, fmt.Errorf("%q has %d sums for %d pieces", it.Path, len(it.Sums), Pieces(it.Extents))
		}
		b = binary.AppendUvarint(b, uint64(i-last))
		last = i
		for j := range it.Sums {
			b = append(b, it.Sums[j][:]...)
		}
	}
	return b, nil
}

// setSums sets Sums of items from what appendSums wrote.
func setSums(b []byte, items []Item) error {
	at := uint64(0)
	for first := true; len(b) > 0; first = false {
		gap, k := binary.Uvarint(b)
		if k <= 0 || gap == 0 && !first || gap >= uint64(len(items)) || at+gap >= uint64(len(items)) {
			return errSums
		}
		at += gap
		b = b[k:]
		n := Pieces(items[at].Extents)
		if n == 0 || n > len(b)/len(PieceSum{}) {
			return errSums
		}
		sums := make([]PieceSum, n)
		for i := range sums {
			b = b[copy(sums[i][:], b):]
		}
		items[at].Sums = sums
	}
	return nil
}
