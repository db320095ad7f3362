package vault

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// A catalogue is kept on the host's disk: the pages of a recipe, each with its stat page,
// which tell a later backup which files it need not read. The store has the same facts in
// another order (StoredCatalogue); the local catalogue costs no request. It is sealed, since
// it has the tenant's names, and so that nobody with write access to the disk makes a backup
// name other content. A catalogue that is missing, torn or of another vault costs a full read.
//
//	"HFCATA" 0x00 0x04 | 16 random bytes | blocks: plain length u32 | sealed length u32 | sealed
//
// The random bytes are the catalogue's id. The key is derived from them, the nonce is the
// number of the block, so that blocks can't be swapped. The first block is the evidence behind
// the rows (Evidence), as CBOR, and the last block is empty, so that a cut off end is found. A
// catalogue without pages is sound: it tells about the file system and about no file.
const (
	catalogueMagic = "HFCATA\x00\x04"
	maxBlock       = 2 * format.MaxMeta
)

// catalogueHead is the first block.
type catalogueHead struct {
	FileSystem string `cbor:"1,keyasint"`
	Mounted    string `cbor:"2,keyasint"`
	Clock      int64  `cbor:"3,keyasint"` // ns
	Young      int64  `cbor:"4,keyasint"` // ns since 1970
}

// CatalogueWriter writes one catalogue. It is for one goroutine.
type CatalogueWriter struct {
	w    *bufio.Writer
	aead cipher.AEAD
	comp *seal.Compressor
	n    uint32
	buf  []byte
	// stats is the stat page of the last page.
	stats []byte
	box   []byte
	id    string
}

// ID names the catalogue: no other has the same, not of the same volume either.
// The key is derived from it, so that it can't be put on another's content.
func (c *CatalogueWriter) ID() string { return c.id }

// NewCatalogue begins a catalogue in w, whose rows rest on e.
func (v *Vault) NewCatalogue(w io.Writer, e Evidence) (*CatalogueWriter, error) {
	comp, err := seal.NewCompressor(seal.Fastest, 1<<20)
	if err != nil {
		return nil, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	c := &CatalogueWriter{w: bufio.NewWriterSize(w, 256<<10), comp: comp, id: hex.EncodeToString(id[:]), aead: seal.NewAEAD(format.Subkey(v.meta, "catalogue", id[:]))}
	if _, err = c.w.WriteString(catalogueMagic + string(id[:])); err != nil {
		return nil, err
	}
	head, err := encMode.Marshal(catalogueHead{e.FileSystem, e.Mounted, int64(e.Clock), e.Young.UnixNano()})
	if err != nil {
		return nil, fmt.Errorf("encode the head of the catalogue: %w", err)
	}
	return c, c.block(head)
}

// Page adds a page as the recipe has it, with its items. A RecipeWriter's Tap calls it.
func (c *CatalogueWriter) Page(page []byte, items []Item) error {
	c.buf = binary.AppendUvarint(c.buf[:0], uint64(len(page)))
	c.buf = append(c.buf, page...)
	c.stats = appendStats(c.stats[:0], items)
	c.buf = binary.AppendUvarint(c.buf, uint64(len(c.stats)))
	c.buf = append(c.buf, c.stats...)
	with, err := appendSums(c.buf, items)
	if err != nil {
		return err
	}
	// otherwise the next backup reads the content to compare from the vault
	if len(with)+seal.Overhead <= maxBlock {
		c.buf = with
	}
	return c.block(c.buf)
}

// Items adds a run of items that no recipe has as one page.
func (c *CatalogueWriter) Items(items []Item) error {
	page, err := encodePage(items)
	if err != nil {
		return err
	}
	return c.Page(page, items)
}

func (c *CatalogueWriter) block(plain []byte) error {
	m, payload := c.comp.Compress(plain)
	need := len(payload) + seal.Overhead
	if cap(c.box) < need {
		c.box = make([]byte, need, 2*need)
	}
	c.box = c.box[:need]
	seal.Seal(c.aead, format.Nonce(c.n), nil, m, payload, c.box)
	c.n++
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(plain)))
	binary.LittleEndian.PutUint32(head[4:], uint32(need))
	if _, err := c.w.Write(head[:]); err != nil {
		return err
	}
	_, err := c.w.Write(c.box)
	return err
}

// Close ends the catalogue.
func (c *CatalogueWriter) Close() error {
	if err := c.block(nil); err != nil {
		return err
	}
	return c.w.Flush()
}

// CatalogueReader reads a catalogue that a CatalogueWriter wrote. It is for one goroutine.
type CatalogueReader struct {
	v    *Vault
	r    *bufio.Reader
	aead cipher.AEAD
	n    uint32
	box  []byte
	buf  []byte
	id   string
	rest Evidence
}

// ID names the catalogue, as its writer said.
func (c *CatalogueReader) ID() string { return c.id }

// Evidence returns the evidence behind the rows, from the catalogue's writer.
func (c *CatalogueReader) Evidence() Evidence { return c.rest }

// errCatalogue is wrapped by every fault of a catalogue.
var errCatalogue = errors.New("catalogue is not usable")

// OpenCatalogue begins to read a catalogue of this vault.
func (v *Vault) OpenCatalogue(r io.Reader) (*CatalogueReader, error) {
	c := &CatalogueReader{v: v, r: bufio.NewReaderSize(r, 256<<10)}
	var head [len(catalogueMagic) + 16]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil || string(head[:len(catalogueMagic)]) != catalogueMagic {
		return nil, fmt.Errorf("%w: it does not begin as one", errCatalogue)
	}
	c.aead = seal.NewAEAD(format.Subkey(v.meta, "catalogue", head[len(catalogueMagic):]))
	c.id = hex.EncodeToString(head[len(catalogueMagic):])
	plain, err := c.block()
	if err != nil {
		return nil, err
	}
	var facts catalogueHead
	if err := decMode.Unmarshal(plain, &facts); err != nil {
		return nil, fmt.Errorf("%w: its head does not decode: %w", errCatalogue, err)
	}
	c.rest = Evidence{facts.FileSystem, facts.Mounted, time.Duration(facts.Clock), time.Unix(0, facts.Young)}
	return c, nil
}

// block opens the next block. The slice is good until the next call.
func (c *CatalogueReader) block() ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: it is cut off", errCatalogue)
	}
	raw, sealed := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if raw > maxBlock || sealed > maxBlock {
		return nil, fmt.Errorf("%w: a block is too long", errCatalogue)
	}
	if cap(c.box) < int(sealed) {
		c.box = make([]byte, sealed)
	}
	c.box = c.box[:sealed]
	if _, err := io.ReadFull(c.r, c.box); err != nil {
		return nil, fmt.Errorf("%w: it is cut off", errCatalogue)
	}
	plain, err := seal.Open(c.aead, format.Nonce(c.n), nil, c.box, c.buf, int(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCatalogue, err)
	}
	c.n++
	c.buf = plain
	return plain, nil
}

// Next returns the items of the next page with Ino and Ctime set, or
// io.EOF at the catalogue's proper end. The slice is the caller's.
func (c *CatalogueReader) Next() ([]Item, error) {
	plain, err := c.block()
	if err != nil {
		return nil, err
	}
	if len(plain) == 0 {
		return nil, io.EOF
	}
	page, plain, err := field(plain)
	if err != nil {
		return nil, err
	}
	stats, sums, err := field(plain)
	if err != nil {
		return nil, err
	}
	items, err := c.v.decodePage(page)
	if err == nil {
		err = setStats(stats, items)
	}
	if err == nil {
		err = setSums(sums, items)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCatalogue, err)
	}
	return items, nil
}

// field splits a block behind a field that its length precedes.
func field(b []byte) (field, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, fmt.Errorf("%w: a block has no page", errCatalogue)
	}
	return b[k : k+int(n)], b[k+int(n):], nil
}
