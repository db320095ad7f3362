package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/chunk"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
)

// The bytes of an index segment, see FORMAT.md.
const (
	indexMagic     = "HFINDX\x00\x01"
	indexRowSize   = 32 + 4 + 4 + 4 + 4
	maxIndexRows   = 1 << 20 // of one segment
	maxIndexObject = maxIndexRows*(indexRowSize+16) + 64
)

type indexRow struct {
	name chunk.Name
	loc  Loc
}

// index is the vault's chunks by name, in memory. It is not safe for concurrent use.
type index struct {
	packs []PackID
	nums  map[PackID]uint32
	rows  map[chunk.Name]shortLoc
}

// shortLoc is a Loc with a number for the pack's id.
type shortLoc struct{ pack, off, len, raw uint32 }

func newIndex() *index {
	return &index{nums: map[PackID]uint32{}, rows: map[chunk.Name]shortLoc{}}
}

func (x *index) find(name chunk.Name) (Loc, bool) {
	s, ok := x.rows[name]
	if !ok {
		return Loc{}, false
	}
	return Loc{Pack: x.packs[s.pack], Off: s.off, Len: s.len, Raw: s.raw}, true
}

// add records loc, unless the name is known; the first stays, so that recipes stay the same bytes.
func (x *index) add(name chunk.Name, loc Loc) bool {
	if _, ok := x.rows[name]; ok {
		return false
	}
	n, ok := x.nums[loc.Pack]
	if !ok {
		n = uint32(len(x.packs))
		x.packs = append(x.packs, loc.Pack)
		x.nums[loc.Pack] = n
	}
	x.rows[name] = shortLoc{pack: n, off: loc.Off, len: loc.Len, raw: loc.Raw}
	return true
}

func (v *Vault) indexPrefix() string { return v.info.ID + "/index/" }

// writeIndex stores rows as segments.
func (v *Vault) writeIndex(ctx context.Context, rows []indexRow) error {
	slices.SortFunc(rows, func(a, b indexRow) int { return bytes.Compare(a.name[:], b.name[:]) })
	for part := range slices.Chunk(rows, maxIndexRows) {
		var id [16]byte
		_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
		if err := v.st.Put(ctx, v.indexPrefix()+hex.EncodeToString(id[:]), v.sealIndex(id[:], part)); err != nil {
			return fmt.Errorf("store index segment: %w", err)
		}
	}
	return nil
}

func (v *Vault) sealIndex(id []byte, rows []indexRow) []byte {
	x := newIndex()
	body := make([]byte, 0, len(rows)*indexRowSize)
	for _, r := range rows {
		n, ok := x.nums[r.loc.Pack]
		if !ok {
			n = uint32(len(x.packs))
			x.packs = append(x.packs, r.loc.Pack)
			x.nums[r.loc.Pack] = n
		}
		body = append(body, r.name[:]...)
		for _, u := range []uint32{n, r.loc.Off, r.loc.Len, r.loc.Raw} {
			body = binary.LittleEndian.AppendUint32(body, u)
		}
	}
	plain := binary.LittleEndian.AppendUint32(nil, uint32(len(x.packs)))
	for _, p := range x.packs {
		plain = append(plain, p[:]...)
	}
	plain = append(plain, body...)
	out := []byte(indexMagic)
	return seal.NewAEAD(subkey(v.meta, "index", id)).Seal(out, packNonce(0), plain, out)
}

// openIndex opens the segment of that id and yields its rows to each.
func (v *Vault) openIndex(id, object []byte, each func(chunk.Name, Loc)) error {
	if !bytes.HasPrefix(object, []byte(indexMagic)) {
		if bytes.HasPrefix(object, []byte(indexMagic[:6])) {
			return ErrNewer
		}
		return errors.New("is no index segment of a known version")
	}
	plain, err := seal.NewAEAD(subkey(v.meta, "index", id)).Open(nil, packNonce(0), object[len(indexMagic):], object[:len(indexMagic)])
	if err != nil {
		return seal.ErrOpen
	}
	return parseIndex(plain, each)
}

// parseIndex decodes an opened segment.
func parseIndex(plain []byte, each func(chunk.Name, Loc)) error {
	if len(plain) < 4 {
		return errors.New("index segment is empty")
	}
	n := int(binary.LittleEndian.Uint32(plain))
	plain = plain[4:]
	if n > len(plain)/16 || (len(plain)-16*n)%indexRowSize != 0 {
		return errors.New("index segment has no whole number of rows")
	}
	ids, rows := plain[:16*n], plain[16*n:]
	for ; len(rows) > 0; rows = rows[indexRowSize:] {
		u := func(i int) uint32 { return binary.LittleEndian.Uint32(rows[32+4*i:]) }
		if int64(u(0)) >= int64(n) {
			return errors.New("index segment names a pack that it does not list")
		}
		each(chunk.Name(rows[:32]), Loc{Pack: PackID(ids[16*u(0):][:16]), Off: u(1), Len: u(2), Raw: u(3)})
	}
	return nil
}

// loadIndex reads all segments, and leaves out the rows of the packs without. One that is damaged is an error: backing up without it would be
// possible, but the operator should hear of it.
func (v *Vault) loadIndex(ctx context.Context, without []PackID) (*index, error) {
	var keys []obs.Info
	for info, err := range v.st.List(ctx, v.indexPrefix()) {
		if err != nil {
			return nil, fmt.Errorf("list the index: %w", err)
		}
		keys = append(keys, info)
	}
	slices.SortFunc(keys, func(a, b obs.Info) int { return cmp.Compare(a.Key, b.Key) })
	x := newIndex()
	gone := make(map[PackID]bool, len(without))
	for _, id := range without {
		gone[id] = true
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, info := range keys {
		g.Go(func() error {
			id, err := hex.DecodeString(info.Key[len(v.indexPrefix()):])
			if err != nil || len(id) != 16 {
				return nil // not ours
			}
			object, err := readAll(gctx, v.st, info.Key, maxIndexObject)
			if errors.Is(err, obs.ErrNotFound) {
				return nil // replaced since the list was made
			} else if err != nil {
				return fmt.Errorf("read the index: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err := v.openIndex(id, object, func(n chunk.Name, l Loc) {
				if !gone[l.Pack] {
					x.add(n, l)
				}
			}); isNewer(err) {
				return fmt.Errorf("index segment %s: %w", info.Key, err)
			} else if err != nil {
				return &CorruptError{Object: info.Key, Reason: err.Error()}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return x, nil
}
