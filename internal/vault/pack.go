package vault

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// The types of package format that callers of this package use.
type (
	// PackID names a pack.
	PackID = format.PackID
	// PackRef is a pack on which a backup rests.
	PackRef = format.PackRef
	// Loc is the place of a chunk.
	Loc = format.Loc
	// ChunkKind is the kind of plaintext of a chunk.
	ChunkKind = format.ChunkKind
	// Row is one line of a pack's table.
	Row = format.Row
	// CorruptError names a stored object that differs from the original, and the evidence.
	CorruptError = format.CorruptError
)

// The kinds of chunks.
const (
	Content = format.Content
	Meta    = format.Meta
)

// ParsePackID reads the text that PackID.String wrote.
func ParsePackID(s string) (PackID, error) { return format.ParsePackID(s) }

// ParsePackRef reads the text that PackRef.String wrote.
func ParsePackRef(s string) (PackRef, error) { return format.ParsePackRef(s) }

func (v *Vault) packKey(id PackID) string {
	s := id.String()
	return v.info.ID + "/packs/" + s[:2] + "/" + s
}

func (v *Vault) packAEAD(id PackID) cipher.AEAD {
	return seal.NewAEAD(format.Subkey(v.content, "pack", id[:]))
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
	if size < int64(format.PackHeader+format.TableRoom(0)) || size > format.MaxPack {
		return nil, bad(fmt.Sprintf("%d bytes is no size of a pack", size))
	}
	// Most tables fit the first read, which asks for a byte more than there is to be.
	tail := make([]byte, min(size-format.PackHeader, 64<<10)+1)
	got, err := v.st.ReadAt(ctx, key, tail, size-int64(len(tail)-1))
	switch {
	case got == len(tail):
		return nil, bad(fmt.Sprintf("goes on behind its %d bytes", size))
	case !errors.Is(err, io.EOF) || got < len(tail)-1:
		return nil, readError(key, got, len(tail)-1, size-int64(len(tail)-1), err)
	}
	tail = tail[:got]
	trailer := tail[len(tail)-format.PackTrailer:]
	if string(trailer[4:]) != format.PackEnd {
		return nil, bad("does not end as a pack does: cut off, or no pack of a known version")
	}
	n := int64(binary.LittleEndian.Uint32(trailer))
	if n < format.Tag || n > size-format.PackHeader-format.PackTrailer {
		return nil, bad("table is larger than the pack")
	}
	off := size - format.PackTrailer - n
	sealed := make([]byte, n)
	if have := int64(len(tail) - format.PackTrailer); n <= have {
		copy(sealed, tail[have-n:])
	} else if err := readFull(ctx, v.st, key, sealed, off); err != nil {
		return nil, err
	}
	table, err := v.packAEAD(id).Open(sealed[:0], format.Nonce(uint32(off)), sealed, format.TableAAD(size))
	if err != nil {
		return nil, bad("table " + seal.ErrOpen.Error())
	}
	rows, err := format.ParseRows(table, uint32(off))
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
// into dst's array where it has room. The errors are the errors of format.OpenChunk.
func (o Opener) Open(kind ChunkKind, loc Loc, sealed, dst []byte) ([]byte, error) {
	return format.OpenChunk(o.aead, o.object, kind, loc, sealed, dst)
}

// checkLoc refuses what no writer makes, before memory is taken for it.
func (v *Vault) checkLoc(kind ChunkKind, loc Loc) error {
	limit := uint32(v.params.Chunk.Max)
	if kind == Meta {
		limit = format.MaxMeta
	}
	if loc.Raw > limit || loc.Len < seal.Overhead || loc.Len > limit+seal.Overhead || loc.Off < format.PackHeader || loc.Off > format.MaxPack {
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
	if err := v.ReadRun(ctx, loc.Pack, sealed, loc.Off); err != nil {
		return nil, err
	}
	return v.Opener(loc.Pack).Open(kind, loc, sealed, nil)
}
