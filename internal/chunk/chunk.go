// Package chunk cuts content into chunks at places that the content itself decides, and names them.
//
// internal/backup calls it for every byte that it reads. Nothing here does I/O, starts a goroutine
// or outlives a call.
package chunk

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/zeebo/blake3"
)

// Name identifies a chunk: the keyed BLAKE3 of its plaintext. Without the vault's key
// nobody can tell whether a known content has a given name.
type Name [32]byte

// Namer computes names. It is for one goroutine.
type Namer struct{ h *blake3.Hasher }

// NewNamer returns a Namer under the vault's 32-byte naming key.
func NewNamer(key [32]byte) *Namer {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // only for a key that has not 32 bytes
	}
	return &Namer{h: h}
}

// Name returns the name of the chunk p.
func (n *Namer) Name(p []byte) (name Name) {
	n.h.Reset()
	_, _ = n.h.Write(p) // a Hasher's Write never fails
	n.h.Sum(name[:0])
	return name
}

// Params are the sizes, in bytes, that cuts keep to. Every chunk but the last of a run has at least
// Min and at most Max bytes, and most have about Avg.
type Params struct {
	Min int `json:"min"`
	Avg int `json:"avg"` // a power of two
	Max int `json:"max"`
}

// Check returns the fault of p, or nil.
func (p Params) Check() error {
	switch {
	case p.Avg < 1<<8 || p.Avg > 1<<24 || bits.OnesCount(uint(p.Avg)) != 1:
		return fmt.Errorf("chunk average of %d bytes: must be a power of two from 256 to 16777216", p.Avg)
	case p.Min < 64 || p.Min > p.Avg:
		return fmt.Errorf("chunk minimum of %d bytes: must be from 64 to the average, %d", p.Min, p.Avg)
	case p.Max < p.Avg || p.Max > 1<<26:
		return fmt.Errorf("chunk maximum of %d bytes: must be from the average, %d, to 67108864", p.Max, p.Avg)
	}
	return nil
}

// Cutter finds cut points with a gear hash whose table is drawn from the vault's key, so
// that two vaults cut the same content in different places. The mask is stricter before the
// average and laxer after it (normalised chunking, FastCDC, Xia et al., ATC 2016), which
// draws sizes towards the average. A Cutter is constant and may be shared by goroutines.
type Cutter struct {
	gear        [256]uint64
	p           Params
	strict, lax uint64
}

// NewCutter returns a Cutter for p, which must pass Check, under the vault's 32-byte cutting key.
func NewCutter(key [32]byte, p Params) *Cutter {
	c := &Cutter{p: p}
	table, err := hkdf.Expand(sha256.New, key[:], "holdfast gear table", 255*sha256.Size)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	for i := range c.gear {
		c.gear[i] = binary.LittleEndian.Uint64(table[8*i:])
	}
	n := bits.TrailingZeros(uint(p.Avg))
	// The high bits of a gear hash depend on the last 64 bytes, the low ones on few: use high bits.
	c.strict = ^uint64(0) << (64 - (n + 2))
	c.lax = ^uint64(0) << (64 - (n - 2))
	return c
}

// Params returns the sizes that c keeps to.
func (c *Cutter) Params() Params { return c.p }

// Cut returns the length of the first chunk of p: len(p) when p is empty, no longer
// than the minimum, or holds no cut point before the maximum. Unless p is the whole
// rest of the content, p must have at least Max bytes; with fewer bytes the cut may
// differ from the cut in the whole content.
func (c *Cutter) Cut(p []byte) int {
	if len(p) <= c.p.Min {
		return len(p)
	}
	end := min(len(p), c.p.Max)
	mid := min(end, c.p.Avg) // the minimum is not above the average
	var h uint64
	i := c.p.Min
	// The hash of a position depends on the 64 bytes before it only, so start that much before
	// the first allowed cut.
	for _, b := range p[max(0, i-64):i] {
		h = h<<1 + c.gear[b]
	}
	n, h := scan(&c.gear, p[i:mid], h, c.strict)
	if n > 0 {
		return i + n
	}
	if n, _ = scan(&c.gear, p[mid:end], h, c.lax); n > 0 {
		return mid + n
	}
	return end
}
