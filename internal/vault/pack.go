package vault

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	if p.Size, err = strconv.ParseInt(size, 10, 64); err != nil || p.Size < 1 || p.Size > maxPack {
		return p, fmt.Errorf("pack %q: must be 32 hex digits, a dash and a size from 1 to %d", s, maxPack)
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

// The bytes of a pack, see FORMAT.md.
const (
	packHeader  = 8
	packTrailer = 12
	rowSize     = 32 + 1 + 4 + 4
	packMagic   = "HFPACK\x00\x01"
	packEnd     = "HFPKEND\x01"
	gcmTag      = 16
)

// maxMeta bounds the plaintext of a Meta chunk, bytes.
const maxMeta = 8 << 20

func (v *Vault) packKey(id PackID) string {
	s := id.String()
	return v.info.ID + "/packs/" + s[:2] + "/" + s
}

func (v *Vault) packAEAD(id PackID) cipher.AEAD {
	return seal.NewAEAD(subkey(v.content, "pack", id[:]))
}

// subkey derives the key of one object from a master: HKDF-Expand (RFC 5869) over its kind and id.
func subkey(master [32]byte, kind string, id []byte) (sub [32]byte) {
	b, err := hkdf.Expand(sha256.New, master[:], "holdfast v1 "+kind+"\x00"+string(id), 32)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	copy(sub[:], b)
	return sub
}

// packNonce is the offset of the sealed bytes: unique
// under the pack's own key, since a pack is written once.
func packNonce(off uint32) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[4:], uint64(off))
	return n[:]
}

func chunkAAD(k ChunkKind) []byte { return []byte{byte(k)} }

// tableAAD binds a table to the size of its pack, so that no pack passes that was cut or grown.
func tableAAD(size int64) []byte {
	return binary.BigEndian.AppendUint64([]byte("table"), uint64(size))
}

// tableRoom is how many bytes the table of n rows and the trailer take at the end of a pack.
func tableRoom(n int) int { return n*rowSize + gcmTag + packTrailer }

// appendTable seals the table of rows and the trailer behind pack, which ends with the last chunk.
func appendTable(aead cipher.AEAD, pack []byte, rows []Row) []byte {
	off := len(pack)
	size := off + tableRoom(len(rows))
	pack = slices.Grow(pack, tableRoom(len(rows)))
	for _, r := range rows {
		pack = append(pack, r.Name[:]...)
		pack = append(pack, byte(r.Kind))
		pack = binary.LittleEndian.AppendUint32(pack, r.Len)
		pack = binary.LittleEndian.AppendUint32(pack, r.Raw)
	}
	pack = aead.Seal(pack[:off], packNonce(uint32(off)), pack[off:], tableAAD(int64(size)))
	pack = binary.LittleEndian.AppendUint32(pack, uint32(size-off-packTrailer))
	return append(pack, packEnd...)
}

// parseRows decodes an opened table whose first chunk begins at
// packHeader and whose last must end at end.
func parseRows(table []byte, end uint32) ([]Row, error) {
	if len(table)%rowSize != 0 {
		return nil, fmt.Errorf("table of %d bytes is no number of rows", len(table))
	}
	rows := make([]Row, 0, len(table)/rowSize)
	off := uint32(packHeader)
	for ; len(table) > 0; table = table[rowSize:] {
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

// PackTable reads and opens the table of a pack. ErrCorrupt;
// obs.ErrNotFound when there is no such pack.
func (v *Vault) PackTable(ctx context.Context, id PackID) ([]Row, int64, error) {
	info, err := v.st.Stat(ctx, v.packKey(id))
	if err != nil {
		return nil, 0, err
	}
	rows, err := v.packTable(ctx, id, info.Size)
	if err != nil {
		return nil, 0, err
	}
	return rows, info.Size, nil
}

// readPackTable is packTable by one look.
func (v *Vault) readPackTable(ctx context.Context, id PackID, size int64) ([]Row, error) {
	key := v.packKey(id)
	bad := func(reason string) error { return &CorruptError{Object: key, Reason: reason} }
	if size < int64(packHeader+tableRoom(0)) || size > maxPack {
		return nil, bad(fmt.Sprintf("%d bytes is no size of a pack", size))
	}
	// Most tables fit the first read, which asks for a byte more than there is to be.
	tail := make([]byte, min(size-packHeader, 64<<10)+1)
	got, err := v.st.ReadAt(ctx, key, tail, size-int64(len(tail)-1))
	switch {
	case got == len(tail):
		return nil, bad(fmt.Sprintf("goes on behind its %d bytes", size))
	case !errors.Is(err, io.EOF) || got < len(tail)-1:
		return nil, readError(key, got, len(tail)-1, size-int64(len(tail)-1), err)
	}
	tail = tail[:got]
	trailer := tail[len(tail)-packTrailer:]
	if string(trailer[4:]) != packEnd {
		return nil, bad("does not end as a pack does: cut off, or no pack of a known version")
	}
	n := int64(binary.LittleEndian.Uint32(trailer))
	if n < gcmTag || n > size-packHeader-packTrailer {
		return nil, bad("table is larger than the pack")
	}
	off := size - packTrailer - n
	sealed := make([]byte, n)
	if have := int64(len(tail) - packTrailer); n <= have {
		copy(sealed, tail[have-n:])
	} else if err := readFull(ctx, v.st, key, sealed, off); err != nil {
		return nil, err
	}
	table, err := v.packAEAD(id).Open(sealed[:0], packNonce(uint32(off)), sealed, tableAAD(size))
	if err != nil {
		return nil, bad("table " + seal.ErrOpen.Error())
	}
	rows, err := parseRows(table, uint32(off))
	if err != nil {
		return nil, bad(err.Error())
	}
	return rows, nil
}

// Opener opens chunks of one pack. It is constant and may be shared.
type Opener struct {
	aead   cipher.AEAD
	object string
}

// Opener returns the Opener of a pack.
func (v *Vault) Opener(id PackID) Opener { return Opener{aead: v.packAEAD(id), object: v.packKey(id)} }

// Open opens the sealed bytes of the chunk at loc, destroying them,
// into dst's array where it has room. An error is a *CorruptError.
func (o Opener) Open(kind ChunkKind, loc Loc, sealed, dst []byte) ([]byte, error) {
	return openChunk(o.aead, o.object, kind, loc, sealed, dst)
}

func openChunk(aead cipher.AEAD, object string, kind ChunkKind, loc Loc, sealed, dst []byte) ([]byte, error) {
	plain, err := seal.Open(aead, packNonce(loc.Off), chunkAAD(kind), sealed, dst, int(loc.Raw))
	if err != nil {
		return nil, &CorruptError{Object: object, Reason: fmt.Sprintf("chunk at byte %d %s", loc.Off, err)}
	}
	return plain, nil
}

// checkLoc refuses what no writer makes, before memory is taken for it.
func (v *Vault) checkLoc(kind ChunkKind, loc Loc) error {
	limit := uint32(v.params.Chunk.Max)
	if kind == Meta {
		limit = maxMeta
	}
	if loc.Raw > limit || loc.Len < seal.Overhead || loc.Len > limit+seal.Overhead || loc.Off < packHeader || loc.Off > maxPack {
		return &CorruptError{Object: v.packKey(loc.Pack), Reason: fmt.Sprintf("reference to %d+%d bytes that open to %d is of no chunk", loc.Off, loc.Len, loc.Raw)}
	}
	return nil
}

// readChunk is ReadChunk by one look.
func (v *Vault) readChunk(ctx context.Context, kind ChunkKind, loc Loc) ([]byte, error) {
	if err := v.checkLoc(kind, loc); err != nil {
		return nil, err
	}
	sealed := make([]byte, loc.Len)
	if err := readFull(ctx, v.st, v.packKey(loc.Pack), sealed, int64(loc.Off)); err != nil {
		return nil, err
	}
	return v.Opener(loc.Pack).Open(kind, loc, sealed, nil)
}

// ReadRun fills p with the bytes of a pack that begin at off: neighbouring chunks in one request.
func (v *Vault) ReadRun(ctx context.Context, id PackID, p []byte, off uint32) error {
	return readFull(ctx, v.st, v.packKey(id), p, int64(off))
}
