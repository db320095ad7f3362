package vault

import (
	"context"
	"fmt"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
)

// pageList is a run of a recipe's pages. Lists are cut where the content says, like pages, so that a
// small change to a large tree changes one page and one list.
type pageList struct {
	_     struct{} `cbor:",toarray"`
	Pages []PageRef
}

const (
	listPages    = 512
	maxPageLists = 1 << 16
)

// RecipeWriter turns the items of one volume, in the order of the walk, into pages. It is for one
// goroutine. What it adds belongs to its Writer.
type RecipeWriter struct {
	// Tap, when set before the first Add, gets every page and its items, which it must not keep.
	Tap func(page []byte, items []Item) error

	w     *Writer
	namer *chunk.Namer
	comp  *seal.Compressor

	items   []Item
	extents int
	weight  int
	last    follower
	pages   []*metaRef
	packs   map[PackID]bool // that the items name
}

type metaRef struct {
	name   chunk.Name
	stored Stored
}

// NewRecipe returns a RecipeWriter whose pages go through w. The packs that its items name are added to packs.
func (w *Writer) NewRecipe(packs map[PackID]bool) (*RecipeWriter, error) {
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
	for i := range it.Extents {
		if id := it.Extents[i].Chunk.Pack; i == 0 || id != it.Extents[i-1].Chunk.Pack {
			r.packs[id] = true
		}
	}
	r.items = append(r.items, it)
	r.extents += len(it.Extents)
	r.weight += weight(&it)
	// Where a page ends depends on the path alone, so that a tree with one more file has one other page.
	if len(r.items) >= pageItems || r.extents >= pageExtents || r.weight >= pageWeight ||
		len(r.items) >= pageItems/8 && pathHash(it.Path)&(pageItems/4-1) == 0 {
		return r.flush()
	}
	return nil
}

// follower sees whether each item can follow the one before: what a restore refuses is neither
// written nor passed by a verification.
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
	var lists []*metaRef
	var list pageList
	for i, p := range r.pages {
		list.Pages = append(list.Pages, refOf(p.stored.Loc))
		r.packs[p.stored.Loc.Pack] = true
		if i < len(r.pages)-1 && len(list.Pages) < listPages && p.name[0]&63 != 0 {
			continue
		}
		b, err := encMode.Marshal(&list)
		if err != nil {
			return nil, fmt.Errorf("encode page list: %w", err)
		}
		ref, err := r.add(b)
		if err != nil {
			return nil, err
		}
		lists = append(lists, ref)
		list.Pages = list.Pages[:0]
	}
	if len(lists) > maxPageLists {
		return nil, fmt.Errorf("recipe of %d page lists: more than the %d that the format allows", len(lists), maxPageLists)
	}
	if err := r.w.FlushMeta(); err != nil {
		return nil, err
	}
	refs := make([]PageRef, 0, len(lists))
	for _, l := range lists {
		refs = append(refs, refOf(l.stored.Loc))
		r.packs[l.stored.Loc.Pack] = true
	}
	return refs, nil
}

// Items reads the recipe of a volume, in order, a page at a time. The slice is each's to keep.
func (v *Vault) Items(ctx context.Context, vol *Volume, each func([]Item) error) error {
	for _, l := range vol.Lists {
		b, err := v.ReadChunk(ctx, Meta, l.Loc())
		if err != nil {
			return fmt.Errorf("read recipe of volume %s: %w", vol.Name, err)
		}
		var list pageList
		if err := decMode.Unmarshal(b, &list); err != nil {
			return v.badMeta(l, pageError(err))
		}
		if err := v.pagesOf(ctx, vol, list.Pages, each); err != nil {
			return err
		}
	}
	return nil
}

// runGap is how many unneeded bytes between two pages are read rather than ask twice.
const runGap = 64 << 10

// pagesOf reads pages, those that lie side by side with one request.
func (v *Vault) pagesOf(ctx context.Context, vol *Volume, pages []PageRef, each func([]Item) error) error {
	for len(pages) > 0 {
		first := pages[0]
		if err := v.checkLoc(Meta, first.Loc()); err != nil {
			return err
		}
		n, end := 1, first.Off+first.Len
		for n < len(pages) && pages[n].Pack == first.Pack && v.checkLoc(Meta, pages[n].Loc()) == nil &&
			pages[n].Off >= end && pages[n].Off-end <= runGap && pages[n].Off+pages[n].Len-first.Off <= 2*metaRun {
			end = pages[n].Off + pages[n].Len
			n++
		}
		run := make([]byte, end-first.Off)
		if err := v.ReadRun(ctx, first.Pack, run, first.Off); err != nil {
			return fmt.Errorf("read recipe of volume %s: %w", vol.Name, err)
		}
		for _, p := range pages[:n] {
			plain, err := v.Opener(p.Pack).Open(Meta, p.Loc(), run[p.Off-first.Off:][:p.Len], nil)
			if err != nil {
				return err
			}
			items, err := v.decodePage(plain)
			if err != nil {
				return v.badMeta(p, err)
			}
			if err := each(items); err != nil {
				return err
			}
		}
		pages = pages[n:]
	}
	return nil
}

func (v *Vault) badMeta(r PageRef, err error) error {
	if isNewer(err) {
		return err
	}
	return &CorruptError{Object: v.packKey(r.Pack), Reason: fmt.Sprintf("recipe page at byte %d: %s", r.Off, err)}
}
