package vault

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"holdfast/internal/tree"
)

// Extent is a run of a file's bytes: where in the file, and which part of which chunk.
type Extent struct {
	Off   int64 // in the file, bytes; what no extent covers is a hole
	Chunk Loc
	In    uint32 // where the run begins in the chunk's plaintext
	Len   uint32
}

// Item is an entry of a tree with where its content is.
type Item struct {
	tree.Entry
	// Continued marks further extents of the file of the item before: Path and Extents only.
	Continued bool
	Extents   []Extent // ascending, without overlap
	// Sums has, of a database (see FORMAT.md, "Databases"), the sum of
	// each piece of Extents, in order: Pieces(Extents) of them. It is
	// nil where no sums are known. Catalogues keep sums, recipes do not.
	Sums []PieceSum
}

// page is a run of items as it is encoded. It stands alone: paths
// and packs refer to nothing outside.
type page struct {
	_      struct{} `cbor:",toarray"`
	Packs  []PackID
	Chunks []pageChunk
	Items  []pageItem
}

type pageChunk struct {
	_    struct{} `cbor:",toarray"`
	Pack uint32
	Off  uint32
	Len  uint32
	Raw  uint32
}

type pageItem struct {
	_       struct{} `cbor:",toarray"`
	Kind    uint8    // 0: continued
	Shared  uint32   // how many bytes of the path before this one begins with
	Path    []byte   // the rest
	Mode    uint32
	UID     uint32
	GID     uint32
	Sec     int64
	Nsec    uint32
	Size    int64
	Extents []uint64  // four a run: gap after the run before, chunk, in, len
	More    *pageMore // nil for most
}

// pageMore holds rare properties of items. A reader refuses unknown
// keys: their properties would be missing from the restored tree.
type pageMore struct {
	Target []byte      `cbor:"1,keyasint,omitempty"`
	Major  uint32      `cbor:"2,keyasint,omitempty"`
	Minor  uint32      `cbor:"3,keyasint,omitempty"`
	Xattrs []pageXattr `cbor:"4,keyasint,omitempty"`
	LinkTo []byte      `cbor:"5,keyasint,omitempty"`
	IsLink bool        `cbor:"6,keyasint,omitempty"`
	Flags  uint32      `cbor:"7,keyasint,omitempty"` // inode flags, of tree.AllFlags
	Projid uint32      `cbor:"8,keyasint,omitempty"`
}

type pageXattr struct {
	_     struct{} `cbor:",toarray"`
	Name  []byte
	Value []byte
}

// PageRef is where a page, or a list of pages, is.
type PageRef struct {
	_    struct{} `cbor:",toarray"`
	Pack PackID
	Off  uint32
	Len  uint32
	Raw  uint32
}

// Loc returns the place as a Loc.
func (r PageRef) Loc() Loc { return Loc{Pack: r.Pack, Off: r.Off, Len: r.Len, Raw: r.Raw} }

func refOf(l Loc) PageRef { return PageRef{Pack: l.Pack, Off: l.Off, Len: l.Len, Raw: l.Raw} }

var encMode = func() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeRFC3339Nano
	m, err := o.EncMode()
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return m
}()

var decMode = decoding(1 << 20)

// decManifest is decMode for manifests, which list packs.
var decManifest = decoding(MaxPacks)

func decoding(maxElements int) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 8, MaxArrayElements: maxElements, MaxMapPairs: 64,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return m
}

// Limits of a page, so that both sides know the memory that one takes.
const (
	pageItems   = 1024
	pageExtents = 8192 // of a page; more of one file go on in the next
	// pageWeight is from how many bytes of paths, link targets and attributes
	// on a page ends: few names are long, but a tenant can make all of them so.
	pageWeight = 1 << 20
	// maxPaths bounds the paths of a page, which share beginnings and are much longer decoded.
	maxPaths = 64 << 20
)

// encodePage returns the bytes of a page of those items.
func encodePage(items []Item) ([]byte, error) {
	var p page
	packs := map[PackID]uint32{}
	chunks := map[Loc]uint64{}
	prev := ""
	for i := range items {
		it := &items[i]
		n := sharedPrefix(prev, it.Path)
		e := pageItem{
			Kind: uint8(it.Kind), Shared: uint32(n), Path: []byte(it.Path[n:]),
			Mode: it.Mode, UID: it.UID, GID: it.GID, Sec: it.Mtime.Sec, Nsec: it.Mtime.Nsec, Size: it.Size,
		}
		prev = it.Path
		if it.Continued {
			e = pageItem{Shared: e.Shared, Path: e.Path}
		} else {
			e.More = moreOf(&it.Entry)
		}
		end := int64(0)
		for _, x := range it.Extents {
			c, ok := chunks[x.Chunk]
			if !ok {
				pk, ok := packs[x.Chunk.Pack]
				if !ok {
					pk = uint32(len(p.Packs))
					packs[x.Chunk.Pack] = pk
					p.Packs = append(p.Packs, x.Chunk.Pack)
				}
				c = uint64(len(p.Chunks))
				chunks[x.Chunk] = c
				p.Chunks = append(p.Chunks, pageChunk{Pack: pk, Off: x.Chunk.Off, Len: x.Chunk.Len, Raw: x.Chunk.Raw})
			}
			e.Extents = append(e.Extents, uint64(x.Off-end), c, uint64(x.In), uint64(x.Len))
			end = x.Off + int64(x.Len)
		}
		p.Items = append(p.Items, e)
	}
	b, err := encMode.Marshal(&p)
	if err != nil {
		return nil, fmt.Errorf("encode recipe page: %w", err)
	}
	return b, nil
}

func moreOf(e *tree.Entry) *pageMore {
	if e.Target == "" && e.Major == 0 && e.Minor == 0 && len(e.Xattrs) == 0 && !e.HasLinkTo && e.Flags == 0 && e.Project == 0 {
		return nil
	}
	m := &pageMore{
		Target: []byte(e.Target), Major: e.Major, Minor: e.Minor, IsLink: e.HasLinkTo, LinkTo: []byte(e.LinkTo),
		Flags: uint32(e.Flags), Projid: e.Project,
	}
	for _, x := range e.Xattrs {
		m.Xattrs = append(m.Xattrs, pageXattr{Name: []byte(x.Name), Value: x.Value})
	}
	return m
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// maxPath bounds one path. A longer one would take more than 4000 levels of the longest names.
const maxPath = 1 << 20

// weight is about how many bytes an item adds to a page, besides its extents.
func weight(it *Item) int {
	n := len(it.Path) + len(it.Target) + len(it.LinkTo)
	for _, x := range it.Xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

// decodePage decodes the output of encodePage, and refuses pages that encodePage can't have made.
func (v *Vault) decodePage(b []byte) ([]Item, error) {
	var p page
	if err := decMode.Unmarshal(b, &p); err != nil {
		return nil, pageError(err)
	}
	if len(p.Items) > pageItems {
		return nil, fmt.Errorf("page has %d items, the format allows %d", len(p.Items), pageItems)
	}
	locs := make([]Loc, len(p.Chunks))
	for i, c := range p.Chunks {
		if int64(c.Pack) >= int64(len(p.Packs)) {
			return nil, errors.New("page names a pack that it does not list")
		}
		locs[i] = Loc{Pack: p.Packs[c.Pack], Off: c.Off, Len: c.Len, Raw: c.Raw}
		if err := v.checkLoc(Content, locs[i]); err != nil {
			return nil, err
		}
	}
	items := make([]Item, len(p.Items))
	prev, paths := "", 0
	for i := range p.Items {
		e, it := &p.Items[i], &items[i]
		if int64(e.Shared) > int64(len(prev)) || int(e.Shared)+len(e.Path) > maxPath {
			return nil, fmt.Errorf("page item %d has a path of no sense", i)
		}
		if paths += int(e.Shared) + len(e.Path); paths > maxPaths {
			return nil, errors.New("page has longer paths than the format allows")
		}
		path := prev[:e.Shared] + string(e.Path)
		prev = path
		it.Path = path
		if e.Kind == 0 {
			it.Continued = true
		} else {
			entryOf(e, &it.Entry)
			if more := it.Flags &^ tree.AllFlags; more != 0 {
				return nil, fmt.Errorf("%w: page item %d has inode flags %#x", ErrNewer, i, uint32(more))
			}
		}
		if len(e.Extents)%4 != 0 {
			return nil, fmt.Errorf("page item %d has broken extents", i)
		}
		end := uint64(0)
		it.Extents = make([]Extent, 0, len(e.Extents)/4)
		for x := e.Extents; len(x) > 0; x = x[4:] {
			gap, c, in, n := x[0], x[1], x[2], x[3]
			if c >= uint64(len(locs)) || gap > 1<<62 || end > 1<<62-gap || n == 0 || in > uint64(locs[c].Raw) || n > uint64(locs[c].Raw)-in {
				return nil, fmt.Errorf("page item %d has an extent of no sense", i)
			}
			it.Extents = append(it.Extents, Extent{Off: int64(end + gap), Chunk: locs[c], In: uint32(in), Len: uint32(n)})
			end += gap + n
		}
		if !it.Continued && it.Kind == tree.File && (it.Size < 0 || end > uint64(it.Size)) {
			return nil, fmt.Errorf("page item %d has extents beyond its size", i)
		}
	}
	return items, nil
}

func entryOf(e *pageItem, t *tree.Entry) {
	t.Kind, t.Mode, t.UID, t.GID = tree.Kind(e.Kind), e.Mode, e.UID, e.GID
	t.Mtime, t.Size = tree.Time{Sec: e.Sec, Nsec: e.Nsec}, e.Size
	if m := e.More; m != nil {
		t.Target, t.Major, t.Minor = string(m.Target), m.Major, m.Minor
		t.LinkTo, t.HasLinkTo = string(m.LinkTo), m.IsLink
		t.Flags, t.Project = tree.Flags(m.Flags), m.Projid
		for _, x := range m.Xattrs {
			t.Xattrs = append(t.Xattrs, tree.Xattr{Name: string(x.Name), Value: x.Value})
		}
	}
}

// pageError tells content that a newer version wrote from content that nobody wrote.
func pageError(err error) error {
	if _, ok := errors.AsType[*cbor.UnknownFieldError](err); ok || strings.Contains(err.Error(), "unknown field") ||
		strings.Contains(err.Error(), "different number of elements") {
		return fmt.Errorf("%w: %w", ErrNewer, err)
	}
	return fmt.Errorf("does not decode: %w", err)
}
