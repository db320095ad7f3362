package vault

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// A prune that compacts a vault moves the chunks of a pack that backups still need into other
// packs, and puts a relocation: an object that says where each of these chunks is now. Manifests
// and recipes stay as they are and go on naming the old pack, so the digest in a receipt stays
// right. A reader that misses a pack reads its relocations (movedread.go).

const (
	movedMagic = "HFMOVE\x00\x01"
	// maxMoved has room for the rows of the largest pack and for as many new packs.
	maxMoved = 16 << 20
	// movedRow is the size of a row of a relocation, bytes: offset u32, sealed length u32, kind,
	// number of the new pack u32, offset in the new pack u32.
	movedRow = 4 + 4 + 1 + 4 + 4
)

// movedBody is the sealed content of a relocation.
type movedBody struct {
	Size  int64     `cbor:"1,keyasint"` // of the old pack, bytes
	Packs []PackRef `cbor:"2,keyasint"` // the new packs
	Rows  []byte    `cbor:"3,keyasint"` // by ascending offset, movedRow bytes each
}

// relocation is an opened relocation. It does not change.
type relocation struct {
	name string // of the object, below the folder
	pack PackID // the old pack
	movedBody
}

// movedChunk is a row of a relocation.
type movedChunk struct {
	off, sealed uint32 // in the old pack
	kind        ChunkKind
	pack        PackID // the new one
	to          uint32 // offset in the new pack
}

func (v *Vault) movedPrefix() string { return v.info.ID + "/moved/" }

// movedName makes the name of a relocation of a pack.
func movedName(pack PackID) string { return pack.String() + "." + randomName() }

// packOfMoved returns the pack of whose chunks the relocation of that name tells.
func packOfMoved(name string) (id PackID, ok bool) {
	pack, tail, _ := strings.Cut(name, ".")
	if !condemnedPattern.MatchString(pack) || !condemnedPattern.MatchString(tail) {
		return id, false
	}
	id, err := ParsePackID(pack)
	return id, err == nil
}

func isMovedName(name string) bool {
	_, ok := packOfMoved(name)
	return ok
}

// appendMoved appends a row.
func appendMoved(rows []byte, off, sealed uint32, kind ChunkKind, number int, to uint32) []byte {
	rows = binary.LittleEndian.AppendUint32(rows, off)
	rows = binary.LittleEndian.AppendUint32(rows, sealed)
	rows = append(rows, byte(kind))
	rows = binary.LittleEndian.AppendUint32(rows, uint32(number))
	return binary.LittleEndian.AppendUint32(rows, to)
}

// rows returns how many chunks the relocation has.
func (r *relocation) rows() int { return len(r.Rows) / movedRow }

// number is the number of the new pack of row i.
func (r *relocation) number(i int) uint32 {
	return binary.LittleEndian.Uint32(r.Rows[i*movedRow+9:])
}

// row returns row i.
func (r *relocation) row(i int) movedChunk {
	b := r.Rows[i*movedRow:]
	return movedChunk{
		off: binary.LittleEndian.Uint32(b), sealed: binary.LittleEndian.Uint32(b[4:]), kind: ChunkKind(b[8]),
		pack: r.Packs[r.number(i)].ID, to: binary.LittleEndian.Uint32(b[13:]),
	}
}

// from returns the number of the first row whose chunk begins at off or behind.
func (r *relocation) from(off uint32) int {
	lo, hi := 0, r.rows()
	for lo < hi {
		if mid := (lo + hi) / 2; binary.LittleEndian.Uint32(r.Rows[mid*movedRow:]) < off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// find returns the row of the chunk that begins at off.
func (r *relocation) find(off uint32) (movedChunk, bool) {
	i := r.from(off)
	if i == r.rows() {
		return movedChunk{}, false
	}
	c := r.row(i)
	return c, c.off == off
}

// check says why no prune made these bytes.
func (b *movedBody) check() error {
	if len(b.Rows)%movedRow != 0 || len(b.Rows)/movedRow > maxPackRows {
		return fmt.Errorf("has rows of %d bytes", len(b.Rows))
	}
	r := relocation{movedBody: *b}
	end := uint64(format.PackHeader)
	for i := range r.rows() {
		if n := r.number(i); uint64(n) >= uint64(len(b.Packs)) {
			return fmt.Errorf("row %d names a pack that the relocation does not list", i)
		}
		c := r.row(i)
		switch {
		case uint64(c.off) < end || c.sealed < seal.Overhead || uint64(c.off)+uint64(c.sealed) > format.MaxPack:
			return fmt.Errorf("row %d has a place of no sense", i)
		case c.kind != Content && c.kind != Meta, c.to < format.PackHeader, c.to > format.MaxPack:
			return fmt.Errorf("row %d is of no chunk", i)
		}
		end = uint64(c.off) + uint64(c.sealed)
	}
	return nil
}

// openMoved opens a relocation. ErrCorrupt, ErrNewer.
func (v *Vault) openMoved(name string, object []byte) (*relocation, error) {
	r := &relocation{name: name}
	r.pack, _ = packOfMoved(name)
	if err := v.openSmall("moved", movedMagic, v.movedPrefix(), name, object, &r.movedBody); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, &CorruptError{Object: v.movedPrefix() + name, Reason: err.Error()}
	}
	return r, nil
}

// putMoved stores a relocation.
func (v *Vault) putMoved(ctx context.Context, name string, b *movedBody) error {
	object, err := v.sealSmall("moved", movedMagic, name, b)
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.movedPrefix()+name, object); err != nil {
		return fmt.Errorf("store relocation: %w", err)
	}
	return nil
}

// readMoved reads the relocations whose names begin with prefix and that are wanted,
// and calls each for one at a time. A relocation that does not open is told to bad.
func (v *Vault) readMoved(ctx context.Context, prefix string, wanted func(name string) bool, each func(*relocation), bad func(name string, err error)) error {
	var infos []obs.Info
	for info, err := range v.st.List(ctx, v.movedPrefix()+prefix) {
		if err != nil {
			return fmt.Errorf("list the relocations of packs: %w", err)
		}
		name := strings.TrimPrefix(info.Key, v.movedPrefix())
		switch {
		case !isMovedName(name) || !wanted(name):
		case info.Size > maxMoved:
			bad(name, &CorruptError{Object: info.Key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", info.Size, maxMoved)})
		default:
			infos = append(infos, info)
		}
	}
	err := v.readListed(ctx, v.movedPrefix(), infos, func(name string, object []byte) error {
		r, err := v.openMoved(name, object)
		if err == nil {
			each(r)
		}
		return err
	}, bad)
	if err != nil {
		return fmt.Errorf("read the relocations of packs: %w", err)
	}
	return nil
}

// movedCache keeps the relocations of packs that were read last. It may be used by any number of
// goroutines.
type movedCache struct {
	mu    sync.Mutex
	of    map[PackID][]*relocation
	bytes int
}

// maxMovedCache bounds the rows that a movedCache keeps, bytes.
const maxMovedCache = 32 << 20

func newMovedCache() *movedCache { return &movedCache{of: map[PackID][]*relocation{}} }

func (c *movedCache) get(id PackID) ([]*relocation, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, ok := c.of[id]
	return all, ok
}

func (c *movedCache) put(id PackID, all []*relocation) {
	n := 0
	for _, r := range all {
		n += len(r.Rows)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes += n; c.bytes > maxMovedCache {
		clear(c.of)
		c.bytes = n
	}
	c.of[id] = all
}

func (c *movedCache) forget(id PackID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, id)
}

// relocationsOf returns the relocations of a pack, by their names; none where the pack was never
// moved. An error tells of relocations that do not open where no other one does.
func (v *Vault) relocationsOf(ctx context.Context, id PackID) ([]*relocation, error) {
	return v.cachedRelocations(ctx, v.moves, id)
}

// cachedRelocations is relocationsOf through a cache.
func (v *Vault) cachedRelocations(ctx context.Context, cache *movedCache, id PackID) ([]*relocation, error) {
	if all, ok := cache.get(id); ok {
		return all, nil
	}
	bad := map[string]error{}
	var all []*relocation
	err := v.readMoved(ctx, id.String()+".", func(string) bool { return true },
		func(r *relocation) { all = append(all, r) }, func(name string, err error) { bad[name] = err })
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.Join(slices.Collect(maps.Values(bad))...)
	}
	slices.SortFunc(all, func(a, b *relocation) int { return cmp.Compare(a.name, b.name) })
	cache.put(id, all)
	return all, nil
}

// movedPacks reads all relocations, and returns of each moved pack the packs into which its chunks
// were moved, one list for each relocation. A relocation that does not open is an error.
func (v *Vault) movedPacks(ctx context.Context) (map[PackID][][]PackID, error) {
	all := map[PackID][][]PackID{}
	var bad error
	err := v.readMoved(ctx, "", func(string) bool { return true }, func(r *relocation) {
		all[r.pack] = append(all[r.pack], r.to())
	}, func(_ string, err error) { bad = errors.Join(bad, err) })
	return all, errors.Join(err, bad)
}

// to returns the ids of the new packs.
func (b *movedBody) to() []PackID {
	to := make([]PackID, len(b.Packs))
	for i, ref := range b.Packs {
		to[i] = ref.ID
	}
	return to
}
