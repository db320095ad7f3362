package vault

import (
	"fmt"
	"slices"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
)

// pageList is a run of a recipe's pages. Lists are cut where the content says, like
// pages, so that a small change to a large tree changes one page and one list.
type pageList struct {
	_     struct{} `cbor:",toarray"`
	Pages []PageRef
}

const (
	listPages    = 512
	maxPageLists = 1 << 16
)

// RecipeWriter turns the items of one volume, in the order of the walk,
// into pages. It is for one goroutine. Its pages belong to its Writer.
type RecipeWriter struct {
	// Tap, when set before the first Add, gets every page and its items, which it must not keep.
	// It sets Ino to 0 where a later change may not show in Ctime: a stat page is made after it.
	Tap func(page []byte, items []Item) error
	// KeepStats, when set before the first Add, stores a stat page
	// beside every page. Its items then need Ino and Ctime.
	KeepStats bool

	w     *Writer
	namer *chunk.Namer
	comp  *seal.Compressor

	items   []Item
	extents int
	weight  int
	last    follower
	pages   []*metaRef
	stats   []*metaRef // beside pages
	plain   []byte     // of the last stat page
	lists   []PageRef  // of stats, in the end
	packs   *NamedPacks
}

type metaRef struct {
	name   chunk.Name
	stored Stored
}

// NewRecipe returns a RecipeWriter whose pages go through w. The
// packs that its items name are added to packs.
func (w *Writer) NewRecipe(packs *NamedPacks) (*RecipeWriter, error) {
	comp, err := seal.NewCompressor(seal.Default, 1<<20)
	if err != nil {
		return nil, err
	}
	return &RecipeWriter{w: w, namer: w.v.pageNamer(), comp: comp, packs: packs}, nil
}

// MaxExtents is how many extents an item may have; the rest of a file goes into Continued items.
const MaxExtents = pageExtents

// Add appends an item.
func (r *RecipeWriter) Add(it Item) error {
	if len(it.Path) > maxPath || len(it.LinkTo) > maxPath {
		return fmt.Errorf("entry %.80q…: its path has %d bytes, the format allows %d", it.Path, max(len(it.Path), len(it.LinkTo)), maxPath)
	}
	if err := r.last.follow(&it); err != nil {
		return err
	}
	if err := r.name(it.Extents); err != nil {
		return err
	}
	r.items = append(r.items, it)
	r.extents += len(it.Extents)
	r.weight += weight(&it)
	// Where a page ends depends on the path alone, so that a tree
	// with one more file has one other page.
	if len(r.items) >= pageItems || r.extents >= pageExtents || r.weight >= pageWeight ||
		len(r.items) >= pageItems/8 && pathHash(it.Path)&(pageItems/4-1) == 0 {
		return r.flush()
	}
	return nil
}

// name tells of the packs that extents name, of neighbours in one pack once.
func (r *RecipeWriter) name(extents []Extent) error {
	for len(extents) > 0 {
		pack, end := extents[0].Chunk.Pack, uint32(0)
		for len(extents) > 0 && extents[0].Chunk.Pack == pack {
			end = max(end, extents[0].Chunk.Off+extents[0].Chunk.Len)
			extents = extents[1:]
		}
		if err := r.packs.name(pack, end); err != nil {
			return err
		}
	}
	return nil
}

// follower checks whether each item can follow the item before: an order
// that a restore refuses is neither written nor passed by a verification.
type follower struct {
	any  bool
	path string
	file bool
	size int64
	end  int64 // of the file's extents
}

func (f *follower) follow(it *Item) error {
	if it.Continued {
		if !f.any || it.Path != f.path || !f.file {
			return fmt.Errorf("recipe continues %q, which is not the file before", it.Path)
		}
	} else {
		if f.any && tree.ComparePaths(f.path, it.Path) >= 0 {
			return fmt.Errorf("recipe has %q after %q", it.Path, f.path)
		}
		if it.Kind < tree.File || it.Kind > tree.BlockDevice {
			return fmt.Errorf("recipe has an entry of kind %d: %q", it.Kind, it.Path)
		}
		*f = follower{any: true, path: it.Path, file: it.Kind == tree.File && !it.HasLinkTo, size: it.Size}
	}
	for _, x := range it.Extents {
		if !f.file || x.Off < f.end || x.Off > f.size || int64(x.Len) > f.size-x.Off {
			return fmt.Errorf("recipe of %q has an extent at %d that overlaps or passes its end", it.Path, x.Off)
		}
		f.end = x.Off + int64(x.Len)
	}
	return nil
}

// pathHash is FNV-1a (draft-eastlake-fnv) with a last mix, for spreading only.
func pathHash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h ^ h>>32
}

func (r *RecipeWriter) flush() error {
	if len(r.items) == 0 {
		return nil
	}
	b, err := encodePage(r.items)
	if err != nil {
		return err
	}
	if r.Tap != nil {
		if err := r.Tap(b, r.items); err != nil {
			return err
		}
	}
	ref, err := r.add(b)
	if err != nil {
		return err
	}
	r.pages = append(r.pages, ref)
	if r.KeepStats {
		r.plain = appendStats(r.plain[:0], r.items)
		if ref, err = r.add(r.plain); err != nil {
			return err
		}
		r.stats = append(r.stats, ref)
	}
	clear(r.items)
	r.items, r.extents, r.weight = r.items[:0], 0, 0
	return nil
}

func (r *RecipeWriter) add(plain []byte) (*metaRef, error) {
	ref := &metaRef{name: r.namer.Name(plain)}
	if loc, ok := r.w.Known(ref.name); ok {
		ref.stored = Stored{Loc: loc}
		return ref, nil
	}
	m, payload := r.comp.Compress(plain)
	return ref, r.w.AddMeta(ref.name, m, payload, len(plain), &ref.stored)
}

// Finish ends the recipe and returns where its page lists are.
func (r *RecipeWriter) Finish() ([]PageRef, error) {
	if err := r.flush(); err != nil {
		return nil, err
	}
	if err := r.w.FlushMeta(); err != nil { // the lists say where the pages are
		return nil, err
	}
	var lists, stats []*metaRef
	begin := 0
	for _, p := range slices.Concat(r.pages, r.stats) {
		if err := r.nameMeta(p); err != nil {
			return nil, err
		}
	}
	for i, p := range r.pages {
		if i < len(r.pages)-1 && i+1-begin < listPages && p.name[0]&63 != 0 {
			continue
		}
		l, err := r.list(r.pages[begin : i+1])
		if err != nil {
			return nil, err
		}
		lists = append(lists, l)
		if r.KeepStats {
			if l, err = r.list(r.stats[begin : i+1]); err != nil {
				return nil, err
			}
			stats = append(stats, l)
		}
		begin = i + 1
	}
	if len(lists) > maxPageLists {
		return nil, fmt.Errorf("recipe of %d page lists: more than the %d that the format allows", len(lists), maxPageLists)
	}
	if err := r.w.FlushMeta(); err != nil {
		return nil, err
	}
	for _, l := range slices.Concat(lists, stats) {
		if err := r.nameMeta(l); err != nil {
			return nil, err
		}
	}
	r.lists = refsOf(stats)
	return refsOf(lists), nil
}

// nameMeta tells of the pack of a page or a list, whose place is known.
func (r *RecipeWriter) nameMeta(m *metaRef) error {
	return r.packs.name(m.stored.Loc.Pack, m.stored.Loc.Off+m.stored.Loc.Len)
}

// Stats returns where the lists of the stat pages are, one for each
// list that Finish returned, or nil without KeepStats.
func (r *RecipeWriter) Stats() []PageRef { return r.lists }

// list stores a list of pages, whose places are known.
func (r *RecipeWriter) list(pages []*metaRef) (*metaRef, error) {
	b, err := encMode.Marshal(&pageList{Pages: refsOf(pages)})
	if err != nil {
		return nil, fmt.Errorf("encode page list: %w", err)
	}
	return r.add(b)
}

// refsOf returns where metas are.
func refsOf(metas []*metaRef) []PageRef {
	refs := make([]PageRef, 0, len(metas))
	for _, m := range metas {
		refs = append(refs, refOf(m.stored.Loc))
	}
	return refs
}
