package format

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
)

// PackID names a pack: 128 random bits, so that names are unique without asking anybody.
type PackID [16]byte

func (id PackID) String() string { return hex.EncodeToString(id[:]) }

// ParsePackID reads what String wrote.
func ParsePackID(s string) (id PackID, err error) {
	if len(s) != 32 {
		return id, fmt.Errorf("pack id %q: must be 32 hex digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("pack id %q: must be 32 hex digits", s)
	}
	return id, nil
}

// PackRef is a pack that a backup rests on.
type PackRef struct {
	_    struct{} `cbor:",toarray"`
	ID   PackID
	Size int64 // bytes of the stored object
}

// String is the pack's id and size, as ParsePackRef reads them.
func (p PackRef) String() string { return fmt.Sprintf("%s-%d", p.ID, p.Size) }

// ParsePackRef reads what String wrote.
func ParsePackRef(s string) (p PackRef, err error) {
	id, size, _ := strings.Cut(s, "-")
	if p.ID, err = ParsePackID(id); err != nil {
		return p, err
	}
	if p.Size, err = strconv.ParseInt(size, 10, 64); err != nil || p.Size < 1 || p.Size > MaxPack {
		return p, fmt.Errorf("pack %q: must be 32 hex digits, a dash and a size from 1 to %d", s, MaxPack)
	}
	return p, nil
}

// Loc is where a chunk is stored, and is all that is needed to read it.
type Loc struct {
	Pack PackID
	Off  uint32 // of the sealed bytes in the pack
	Len  uint32 // of the sealed bytes
	Raw  uint32 // of the plaintext
}

// ChunkKind says which kind of plaintext a chunk has. The numbers are part of the format.
type ChunkKind byte

// The kinds.
const (
	Content ChunkKind = 1 // bytes of files or images
	Meta    ChunkKind = 2 // a page or a page list of a recipe
)

// Row is one line of a pack's table.
type Row struct {
	Name chunk.Name
	Kind ChunkKind
	Off  uint32
	Len  uint32
	Raw  uint32
}

// MaxPack bounds the size of a pack, bytes.
const MaxPack = 1 << 30

// Sizes and marks of a pack, bytes, see FORMAT.md.
const (
	PackHeader  = 8
	PackTrailer = 12
	RowSize     = 32 + 1 + 4 + 4
	PackMagic   = "HFPACK\x00\x01"
	PackEnd     = "HFPKEND\x01"
	// Tag is the length of the authentication tag of every sealed part.
	Tag = 16
)

// MaxMeta bounds the plaintext of a Meta chunk, bytes.
const MaxMeta = 8 << 20

// Subkey derives the key of one object from a master: HKDF-Expand (RFC 5869) over its kind and id.
func Subkey(master [32]byte, kind string, id []byte) (sub [32]byte) {
	b, err := hkdf.Expand(sha256.New, master[:], "holdfast v1 "+kind+"\x00"+string(id), 32)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	copy(sub[:], b)
	return sub
}

// Nonce is the offset of the sealed bytes: unique
// under the pack's own key, since a pack is written once.
func Nonce(off uint32) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[4:], uint64(off))
	return n[:]
}

// ChunkAAD binds a chunk to its kind.
func ChunkAAD(k ChunkKind) []byte { return []byte{byte(k)} }

// TableAAD binds a table to the size of its pack, so that no pack passes that was cut or grown.
func TableAAD(size int64) []byte {
	return binary.BigEndian.AppendUint64([]byte("table"), uint64(size))
}

// TableRoom is how many bytes the table of n rows and the trailer take at the end of a pack.
func TableRoom(n int) int { return n*RowSize + Tag + PackTrailer }

// AppendTable seals the table of rows and the trailer behind pack, which ends with the last chunk.
func AppendTable(aead cipher.AEAD, pack []byte, rows []Row) []byte {
	off := len(pack)
	size := off + TableRoom(len(rows))
	pack = slices.Grow(pack, TableRoom(len(rows)))
	for _, r := range rows {
		pack = append(pack, r.Name[:]...)
		pack = append(pack, byte(r.Kind))
		pack = binary.LittleEndian.AppendUint32(pack, r.Len)
		pack = binary.LittleEndian.AppendUint32(pack, r.Raw)
	}
	pack = aead.Seal(pack[:off], Nonce(uint32(off)), pack[off:], TableAAD(int64(size)))
	pack = binary.LittleEndian.AppendUint32(pack, uint32(size-off-PackTrailer))
	return append(pack, PackEnd...)
}

// ParseRows decodes an opened table whose first chunk begins at
// PackHeader and whose last must end at end.
func ParseRows(table []byte, end uint32) ([]Row, error) {
	if len(table)%RowSize != 0 {
		return nil, fmt.Errorf("table of %d bytes is no number of rows", len(table))
	}
	rows := make([]Row, 0, len(table)/RowSize)
	off := uint32(PackHeader)
	for ; len(table) > 0; table = table[RowSize:] {
		r := Row{
			Name: chunk.Name(table[:32]), Kind: ChunkKind(table[32]), Off: off,
			Len: binary.LittleEndian.Uint32(table[33:]), Raw: binary.LittleEndian.Uint32(table[37:]),
		}
		if r.Len < seal.Overhead || r.Len > end-off {
			return nil, fmt.Errorf("table row %d leaves the pack", len(rows))
		}
		off += r.Len
		rows = append(rows, r)
	}
	if off != end {
		return nil, fmt.Errorf("table ends at byte %d, its chunks at %d", end, off)
	}
	return rows, nil
}

// OpenChunk opens the sealed bytes of the chunk at loc, destroying them, into dst's array where it
// has room. object names the pack in the error, which is a *CorruptError,
// or ErrNewer for a chunk that a later version has sealed.
func OpenChunk(aead cipher.AEAD, object string, kind ChunkKind, loc Loc, sealed, dst []byte) ([]byte, error) {
	plain, err := seal.Open(aead, Nonce(loc.Off), ChunkAAD(kind), sealed, dst, int(loc.Raw))
	if errors.Is(err, seal.ErrMethod) {
		return nil, fmt.Errorf("object %s: chunk at byte %d is %w: %w", object, loc.Off, err, ErrNewer)
	} else if err != nil {
		return nil, &CorruptError{Object: object, Reason: fmt.Sprintf("chunk at byte %d %s", loc.Off, err)}
	}
	return plain, nil
}
