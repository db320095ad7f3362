// Package vault is one tenant's set of backups in object storage: keys, packs, index, recipes and
// manifests. It alone knows the object layout, which FORMAT.md gives byte by byte.
//
// internal/backup writes through it, internal/restore and the programs read through it. A Writer runs
// uploads in goroutines of its own, which Finish or Abort waits for; nothing else here starts one
// that outlives its call. A crash leaves packs and index segments that no manifest names; they are
// valid, found by name, and may be used or collected later. Everything read from the store is
// untrusted until it opened under the vault's key.
package vault

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
)

// Format is the version of the object layout that this package reads and writes.
const Format = 1

// Errors that callers decide on.
var (
	ErrNoVault     = errors.New("no such vault")
	ErrVaultExists = errors.New("vault exists already")
	ErrNoBackup    = errors.New("no such backup")
	ErrWrongKey    = errors.New("the key does not open this vault")
	ErrNewer       = errors.New("made by a newer version of holdfast")
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = errors.New("damaged or forged")
)

// CorruptError says which stored object is not what was stored, and how that shows.
type CorruptError struct {
	Object string // its key in the store, with the vault's prefix
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("object %s: %s", e.Object, e.Reason) }

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Params are what a vault fixes when it is made, so that all its writers cut alike.
type Params struct {
	Chunk chunk.Params `json:"chunk"`
	Pack  int          `json:"pack"` // bytes; the size that packs are filled to
}

// DefaultParams are those of a new vault. Chunks of 64 KiB on average: larger ones store a phone's
// databases, which are rewritten in 4 KiB pages, again and again; smaller ones make the index dear.
// Packs of 16 MiB: the smallest of the design's range, since every pack in flight is held in memory.
func DefaultParams() Params {
	return Params{Chunk: chunk.Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}, Pack: 16 << 20}
}

func (p Params) check() error {
	if err := p.Chunk.Check(); err != nil {
		return err
	}
	if p.Pack < 4*p.Chunk.Max || p.Pack > maxPack {
		return fmt.Errorf("pack size of %d bytes: must be from 4 times the largest chunk to %d", p.Pack, maxPack)
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
}

// Info describes a vault.
type Info struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Format     int       `json:"format"`
	Recipients []string  `json:"recipients"` // whose identities open it
	Params     Params    `json:"params"`
	Store      string    `json:"store"`
}

// ID returns the 32 hex digits under which the vault of that name stands in a store. With a
// nameKey, a secret of the fleet, nobody without it can tell whether a name has a vault.
func ID(name string, nameKey []byte) string {
	m := hmac.New(sha256.New, append([]byte("holdfast vault id v1\x00"), nameKey...))
	m.Write([]byte(name))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// header is the part of vault.json that the MAC covers.
type header struct {
	Format     int       `json:"format"`
	ID         string    `json:"id"`
	Created    time.Time `json:"created"`
	Params     Params    `json:"params"`
	Recipients []string  `json:"recipients"`
	Key        string    `json:"key"` // age, armored; opens to a secret
}

type document struct {
	Vault json.RawMessage `json:"vault"`
	MAC   string          `json:"mac"` // hex HMAC-SHA256 of the compact form of Vault
}

// secret is what the wrapped key opens to. The name is in here so that a bucket's owner can't read it.
type secret struct {
	Key  []byte `json:"key"`
	Name string `json:"name"`
}

const maxHeader = 1 << 20

const maxPack = 1 << 30

func headerKey(id string) string { return id + "/vault.json" }

// Create makes the vault of that name, whose key the recipients and id can open. Where the store can
// put conditionally, of two that create at the same moment one gets ErrVaultExists; elsewhere two
// creators at the same moment could each believe to have made it, so only a person or one control
// plane should create vaults there.
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
	if _, err := st.Stat(ctx, headerKey(vid)); err == nil {
		return nil, fmt.Errorf("%w: %s in %s", ErrVaultExists, name, st)
	} else if !errors.Is(err, obs.ErrNotFound) {
		return nil, fmt.Errorf("look for vault %s: %w", name, err)
	}
	all := append([]string{id.Recipient()}, recipients...)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // crypto/rand.Read never fails
	plain, err := json.Marshal(secret{Key: key, Name: name})
	if err != nil {
		return nil, fmt.Errorf("encode vault key: %w", err)
	}
	wrapped, all, err := wrap(plain, all)
	if err != nil {
		return nil, err
	}
	h, err := json.Marshal(header{
		Format: Format, ID: vid, Created: time.Now().UTC().Truncate(time.Second),
		Params: p, Recipients: all, Key: wrapped,
	})
	if err != nil {
		return nil, fmt.Errorf("encode vault header: %w", err)
	}
	doc, err := json.Marshal(document{Vault: h, MAC: headerMAC(key, nameKey, h)})
	if err != nil {
		return nil, fmt.Errorf("encode vault header: %w", err)
	}
	if st.Capabilities().ConditionalPut {
		err = st.PutNew(ctx, headerKey(vid), doc)
	} else {
		err = st.Put(ctx, headerKey(vid), doc)
	}
	if errors.Is(err, obs.ErrExists) {
		return nil, fmt.Errorf("%w: %s in %s", ErrVaultExists, name, st)
	} else if err != nil {
		return nil, fmt.Errorf("write vault %s: %w", name, err)
	}
	// Read what is there, not what was meant: another creator may have come in between.
	return Open(ctx, st, name, nameKey, id)
}

// Open opens the vault of that name. ErrNoVault when there is none, ErrWrongKey when id is not
// among its recipients, ErrCorrupt, ErrNewer.
func Open(ctx context.Context, st obs.Store, name string, nameKey []byte, id *Identity) (*Vault, error) {
	vid := ID(name, nameKey)
	key := headerKey(vid)
	raw, err := readAll(ctx, st, key, maxHeader)
	if errors.Is(err, obs.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s in %s", ErrNoVault, name, st)
	} else if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	bad := func(reason string) error { return &CorruptError{Object: key, Reason: reason} }
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, bad("is no vault header: " + err.Error())
	}
	var h header
	if err := json.Unmarshal(doc.Vault, &h); err != nil {
		return nil, bad("is no vault header: " + err.Error())
	}
	if h.Format > Format {
		return nil, fmt.Errorf("open vault %s: %w: format %d", name, ErrNewer, h.Format)
	}
	strict := json.NewDecoder(bytes.NewReader(doc.Vault))
	strict.DisallowUnknownFields()
	if err := strict.Decode(new(header)); err != nil { // it decoded before, so a key is not known
		return nil, fmt.Errorf("open vault %s: %w: %w", name, ErrNewer, err)
	}
	plain, err := id.unwrap(h.Key)
	if errors.Is(err, ErrWrongKey) {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	} else if err != nil {
		return nil, bad("key does not unwrap: " + err.Error())
	}
	var s secret
	if err := json.Unmarshal(plain, &s); err != nil || len(s.Key) != 32 {
		return nil, bad("wrapped key is not of the form of a vault key")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc.Vault); err != nil {
		return nil, bad("is no vault header: " + err.Error())
	}
	if !hmac.Equal([]byte(headerMAC(s.Key, nameKey, compact.Bytes())), []byte(doc.MAC)) {
		return nil, bad("header was changed: its MAC does not match")
	}
	if s.Name != name || h.ID != vid || h.Format != Format {
		return nil, bad(fmt.Sprintf("is the header of another vault (%q)", s.Name))
	}
	if err := h.Params.check(); err != nil {
		return nil, bad(err.Error())
	}
	v := &Vault{
		st: st, params: h.Params,
		content: derive(s.Key, "content"), meta: derive(s.Key, "meta"),
		name: derive(s.Key, "chunk names"), page: derive(s.Key, "page names"), cut: derive(s.Key, "cut points"),
		info: Info{
			ID: vid, Name: name, Created: h.Created, Format: h.Format,
			Recipients: h.Recipients, Params: h.Params, Store: st.String(),
		},
	}
	clear(s.Key)
	clear(plain)
	return v, nil
}

// Info returns what the vault is.
func (v *Vault) Info() Info { return v.info }

// Fingerprint returns 16 hex digits that differ for two vaults with different keys, whatever their names
// and stores, and tell nothing about the key.
func (v *Vault) Fingerprint() string {
	sub := subkey(v.meta, "fingerprint", nil)
	return hex.EncodeToString(sub[:8])
}

// Params returns the vault's parameters.
func (v *Vault) Params() Params { return v.params }

// Namer returns a Namer of content under the vault's key, for one goroutine.
func (v *Vault) Namer() *chunk.Namer { return chunk.NewNamer(v.name) }

// pageNamer returns a Namer of Meta chunks. Their names are under a key of their own: a file with the
// very bytes of a recipe page would otherwise be found as that page, which does not open as content.
func (v *Vault) pageNamer() *chunk.Namer { return chunk.NewNamer(v.page) }

// Cutter returns the vault's cutter, which goroutines may share.
func (v *Vault) Cutter() *chunk.Cutter { return chunk.NewCutter(v.cut, v.params.Chunk) }

// Store returns the store that the vault is in.
func (v *Vault) Store() obs.Store { return v.st }

// Close forgets the keys. The store stays open: it is the caller's.
func (v *Vault) Close() {
	v.content, v.meta, v.name, v.page, v.cut = [32]byte{}, [32]byte{}, [32]byte{}, [32]byte{}, [32]byte{}
}

// derive returns the subkey of master for that purpose (HKDF-Expand with SHA-256, RFC 5869).
func derive(master []byte, purpose string) (sub [32]byte) {
	b, err := hkdf.Expand(sha256.New, master, "holdfast v1 "+purpose, 32)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	copy(sub[:], b)
	return sub
}

// headerMAC needs the name key too: anybody can wrap a vault key of their own for the recipients, and
// would read what is stored under it.
func headerMAC(key, nameKey, header []byte) string {
	k := derive(key, "header"+string(nameKey))
	m := hmac.New(sha256.New, k[:])
	m.Write(header)
	return hex.EncodeToString(m.Sum(nil))
}

// readAll reads an object whole, but refuses one of more than limit bytes before taking memory.
func readAll(ctx context.Context, st obs.Store, key string, limit int64) ([]byte, error) {
	info, err := st.Stat(ctx, key)
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

// readFull fills p from off; an object that ends before is a *CorruptError.
func readFull(ctx context.Context, st obs.Store, key string, p []byte, off int64) error {
	n, err := st.ReadAt(ctx, key, p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return &CorruptError{Object: key, Reason: fmt.Sprintf("is cut off: ends at byte %d, before byte %d", off+int64(n), off+int64(len(p)))}
	case errors.Is(err, obs.ErrNotFound):
		return &CorruptError{Object: key, Reason: "is missing from the store"}
	case err == nil:
		return fmt.Errorf("read %s: store returned %d of %d bytes and no error", key, n, len(p))
	}
	return fmt.Errorf("read %s: %w", key, err)
}
