// Package vault is one tenant's set of backups in object storage: keys, packs, index, recipes
// and manifests. It alone knows the object layout, which FORMAT.md gives byte by byte.
//
// internal/backup writes through it, internal/restore and the programs read through it. A
// Writer runs uploads in goroutines of its own, which Finish or Abort waits for; nothing else
// here starts a goroutine that outlives its call. A crash leaves packs and index segments
// that no manifest names; they are valid, found by name, and may be used or collected later.
// Everything read from the store is untrusted until it opened under the vault's key.
package vault

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/index"
)

// Format is the version of the object layout that this package reads and writes.
const Format = 1

// Errors that callers decide on.
var (
	ErrNoVault     = errors.New("no such vault")
	ErrVaultExists = errors.New("vault exists already")
	ErrNoBackup    = errors.New("no such backup")
	ErrWrongKey    = format.ErrWrongKey
	ErrNewer       = format.ErrNewer
	ErrCorrupt     = format.ErrCorrupt // is every *CorruptError, for errors.Is
)

// Params are fixed when a vault is made, so that all its writers cut alike.
type Params struct {
	Chunk chunk.Params `json:"chunk"`
	Pack  int          `json:"pack"` // bytes; the size that packs are filled to
}

// DefaultParams are the parameters of a new vault. Chunks have 64 KiB on average: larger chunks
// find less content again after small changes, and smaller chunks make the index large. Packs have
// 16 MiB, since every pack in flight is held in memory.
func DefaultParams() Params {
	return Params{Chunk: chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}, Pack: 16 << 20}
}

func (p Params) check() error {
	if err := p.Chunk.Check(); err != nil {
		return err
	}
	if p.Pack < 4*p.Chunk.Max || p.Pack > format.MaxPack {
		return fmt.Errorf("pack size of %d bytes: must be from 4 times the largest chunk to %d", p.Pack, format.MaxPack)
	}
	return nil
}

// Vault is an open vault. Its methods may be called from any number of goroutines.
type Vault struct {
	st      obs.Store
	info    Info
	params  Params
	content [32]byte // master of the packs' keys
	meta    [32]byte // master of the index's and the manifests' keys
	name    [32]byte // of content chunks
	page    [32]byte // of recipe pages
	cut     [32]byte
	headers [32]byte // of the MAC of headers
	ledger  *ledger
	header  *atomic.Pointer[headerRef] // that was last seen to be this vault's
	// claiming and moves are shared by all copies of the struct.
	claiming *claimTurns
	moves    *movedCache // of one store
}

// Info describes a vault.
type Info struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Format  int       `json:"format"`
	// of the header: how often it was written; 1 is a new vault's
	Generation uint32   `json:"generation"`
	Recipients []string `json:"recipients"` // whose identities open it
	Params     Params   `json:"params"`
	Store      string   `json:"store"`
}

// ID returns the 32 hex digits under which the vault of that name stands in a store. With a
// nameKey, a secret of the fleet, nobody without it can tell whether a name has a vault.
func ID(name string, nameKey []byte) string {
	return hex.EncodeToString(keyedByName("holdfast vault id v1\x00", nameKey, name)[:16])
}

// keyedByName is HMAC-SHA256 of text under the name key, for that purpose.
func keyedByName(purpose string, nameKey []byte, text string) []byte {
	m := hmac.New(sha256.New, append([]byte(purpose), nameKey...))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// Create makes the vault of that name, whose key the recipients and id can open.
// Where the store can put conditionally, of two that create at the same moment one
// gets ErrVaultExists; elsewhere two creators at the same moment could each believe
// to have made it, so only a person or one control plane should create vaults there.
func Create(ctx context.Context, st obs.Store, name string, nameKey []byte, recipients []string, id *Identity) (*Vault, error) {
	return CreateWith(ctx, st, name, nameKey, recipients, id, DefaultParams())
}

// CreateWith is Create with other parameters.
func CreateWith(ctx context.Context, st obs.Store, name string, nameKey []byte, recipients []string, id *Identity, p Params) (*Vault, error) {
	if name == "" || len(name) > 256 {
		return nil, fmt.Errorf("vault name of %d bytes: must have 1 to 256", len(name))
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	vid := ID(name, nameKey)
	if err := mustBeFree(ctx, st, vid, name); err != nil {
		return nil, err
	}
	s := secret{Key: make([]byte, 32), Name: name, Proof: proofOf(nameKey, vid)}
	defer s.clear()
	_, _ = rand.Read(s.Key) // crypto/rand.Read never fails
	doc, err := sealHeader(header{
		Format: Format, ID: vid, Generation: 1, Created: time.Now().UTC().Truncate(time.Second), Params: p,
		Recipients: append(id.recipients(), recipients...),
	}, s)
	if err != nil {
		return nil, err
	}
	// The signpost first: one to nothing is passed over, but a vault without one is hard to find.
	once, err := CreatesOnce(ctx, st, name, nameKey)
	if err != nil {
		return nil, fmt.Errorf("write vault %s: %w", name, err)
	}
	put := st.Put
	if once {
		put = st.PutNew
	}
	err = putHeader(ctx, st, firstHeaderKey(vid), doc, put)
	if errors.Is(err, obs.ErrExists) {
		return nil, fmt.Errorf("%w: %s in %s", ErrVaultExists, name, st)
	} else if err != nil {
		return nil, fmt.Errorf("write vault %s: %w", name, err)
	}
	// Another creator may have come in between, so the present header is read.
	return Open(ctx, st, name, nameKey, id)
}

// Open opens the vault of that name. ErrNoVault when there is none, ErrWrongKey when id is not
// among its recipients, ErrCorrupt, ErrNewer.
func Open(ctx context.Context, st obs.Store, name string, nameKey []byte, id *Identity) (*Vault, error) {
	vid := ID(name, nameKey)
	at, h, s, err := newestHeader(ctx, st, vid, id)
	if errors.Is(err, ErrNoVault) {
		return nil, fmt.Errorf("%w: %s in %s", ErrNoVault, name, st)
	} else if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	defer s.clear()
	if s.Name != name {
		return nil, &CorruptError{Object: at.key, Reason: fmt.Sprintf("is the header of another vault (%q)", s.Name)}
	}
	// Anybody can wrap a vault key of their own for recipients that
	// they know, and would read everything that is stored under it.
	if !hmac.Equal(s.Proof, proofOf(nameKey, vid)) {
		return nil, &CorruptError{Object: at.key, Reason: "was not made with this name key: somebody put another vault in the place of this one"}
	}
	return newVault(st, at, h, s), nil
}

// newVault derives the keys of a vault from its secret.
func newVault(st obs.Store, at headerRef, h header, s secret) *Vault {
	v := &Vault{
		st: st, params: h.Params, headers: headerKey(s.Key),
		content: derive(s.Key, "content"), meta: derive(s.Key, "meta"),
		name: derive(s.Key, "chunk names"), page: derive(s.Key, "page names"), cut: derive(s.Key, "cut points"),
		info: infoOf(st, h, s), ledger: newLedger(), header: new(atomic.Pointer[headerRef]), claiming: newClaimTurns(), moves: newMovedCache(),
	}
	v.header.Store(&at)
	return v
}

func infoOf(st obs.Store, h header, s secret) Info {
	return Info{
		ID: h.ID, Name: s.Name, Created: h.Created, Format: h.Format, Generation: h.Generation,
		Recipients: h.Recipients, Params: h.Params, Store: st.String(),
	}
}

// Info returns the facts of the vault.
func (v *Vault) Info() Info { return v.info }

// Fingerprint returns 16 hex digits that differ for two vaults with different
// keys, whatever their names and stores, and tell nothing about the key.
func (v *Vault) Fingerprint() string {
	sub := format.Subkey(v.meta, "fingerprint", nil)
	return hex.EncodeToString(sub[:8])
}

// Params returns the vault's parameters.
func (v *Vault) Params() Params { return v.params }

// Namer returns a Namer of content under the vault's key, for one goroutine.
func (v *Vault) Namer() *chunk.Namer { return chunk.NewNamer(v.name) }

// pageNamer returns a Namer of Meta chunks. Their names are under a
// key of their own: a file with the very bytes of a recipe page would
// otherwise be found as that page, which does not open as content.
func (v *Vault) pageNamer() *chunk.Namer { return chunk.NewNamer(v.page) }

// Cutter returns the vault's cutter, which goroutines may share.
func (v *Vault) Cutter() *chunk.Cutter { return chunk.NewCutter(v.cut, v.params.Chunk) }

// Store returns the store that the vault is in.
func (v *Vault) Store() obs.Store { return v.st }

// Close forgets the keys, and ends the signs of life of backups in doubt, which nobody can give
// without keys. The store stays open: it is the caller's.
func (v *Vault) Close() {
	v.ledger.silenceNamings()
	v.content, v.meta, v.name, v.page, v.cut, v.headers = [32]byte{}, [32]byte{}, [32]byte{}, [32]byte{}, [32]byte{}, [32]byte{}
}

// derive returns the format.Subkey of master for that purpose (HKDF-Expand with SHA-256, RFC 5869).
func derive(master []byte, purpose string) (sub [32]byte) {
	b, err := hkdf.Expand(sha256.New, master, "holdfast v1 "+purpose, 32)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	copy(sub[:], b)
	return sub
}

// readAll reads an object whole, but refuses one of more than limit bytes before taking memory.
func readAll(ctx context.Context, st obs.Store, key string, limit int64) ([]byte, error) {
	info, err := st.Stat(ctx, key)
	// who reads an object saw it in a list, so a second look is worth its while
	if errors.Is(err, obs.ErrNotFound) {
		info, err = st.Stat(obs.Afresh(ctx), key)
	}
	if err != nil {
		return nil, err
	}
	if info.Size > limit {
		return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", info.Size, limit)}
	}
	p := make([]byte, info.Size)
	if err := readFull(ctx, st, key, p, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// found is what stands in the store under a name.
type found int

const (
	notRead found = iota // the store did not tell
	missing
	otherBytes
	sameBytes
)

// compare reads the object of that key in one request and tells whether it
// has the bytes want and no others. The error is nil for sameBytes only.
func compare(ctx context.Context, st obs.Store, key string, want []byte) (found, error) {
	p := make([]byte, len(want)+1)
	n, err := st.ReadAt(ctx, key, p, 0)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return missing, readError(key, n, len(want), 0, err)
	case err != nil && !errors.Is(err, io.EOF):
		return notRead, readError(key, n, len(want), 0, err)
	case !bytes.Equal(p[:n], want):
		return otherBytes, &CorruptError{Object: key, Reason: "reads back as other bytes than were written"}
	}
	return sameBytes, nil
}

// readFull fills p from off; an object that ends before is a *CorruptError.
func readFull(ctx context.Context, st obs.Store, key string, p []byte, off int64) error {
	n, err := st.ReadAt(ctx, key, p, off)
	if n == len(p) {
		return nil
	}
	return readError(key, n, len(p), off, err)
}

// readError says why only n of want bytes from off came.
func readError(key string, n, want int, off int64, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return &CorruptError{Object: key, Reason: fmt.Sprintf("is cut off: ends at byte %d, before byte %d", off+int64(n), off+int64(want))}
	case errors.Is(err, obs.ErrNotFound):
		return &CorruptError{Object: key, Reason: "is missing from the store"}
	case err == nil:
		return fmt.Errorf("read %s: store returned %d of %d bytes and no error", key, n, want)
	}
	return err // the store's errors name the operation and the object
}

// index returns the vault's index, in the store that v has now.
func (v *Vault) index() index.Place {
	return index.Place{
		Store: v.st, Prefix: v.info.ID + "/index/", Folder: v.Fingerprint(),
		AEAD: func(id index.SegmentID) cipher.AEAD { return seal.NewAEAD(format.Subkey(v.meta, "index", id[:])) },
	}
}
