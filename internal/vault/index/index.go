package index

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/offheap"
)

// Index finds the vault's chunks by name: in the stored segments, and in the rows that one
// writer adds. find may be called from any number of goroutines, beside one goroutine that
// calls add and freeze. In memory are about two bytes for each chunk of a segment, and at
// most some ten megabytes of rows that are not written as a segment yet; see FORMAT.md.
type Index struct {
	in      Place
	dir     segmentDir
	without map[format.PackID]bool // packs that are not to be used
	tell    func(error)            // is told about damaged parts that are left out; from any goroutine

	view atomic.Pointer[indexView]

	mu      sync.Mutex   // over changes of view, and over the fields below
	own     []*segment   // of this writer: in view too, but not stored yet
	classes segmentTally // of the stored segments
}

// indexView is the state that a lookup sees. It is constant but for the active table.
type indexView struct {
	active *rowTable
	frozen []*rowTable // full; being written as segments, unless the disk had no room
	segs   []*segment
	// spilled are the segments in segs that this writer added.
	spilled []*segment
}

// Open opens the index with the segments of the store. Damaged segments are left out and
// reported: their chunks are stored anew, and nothing is lost, since no restore needs the index.
func (in Place) Open(ctx context.Context, dir string, without []format.PackID, tell func(error)) (*Index, error) {
	if tell == nil {
		tell = func(error) {}
	}
	x := &Index{in: in, without: make(map[format.PackID]bool, len(without)), tell: tell}
	for _, id := range without {
		x.without[id] = true
	}
	set, err := in.OpenSet(ctx, dir, tell)
	if err != nil {
		return nil, err
	}
	x.dir = set.dir
	view := &indexView{active: newRowTable()}
	for _, s := range set.open {
		view.segs = append(view.segs, s)
		x.classes.count(s.rows)
	}
	slices.SortFunc(view.segs, func(a, b *segment) int { return bytes.Compare(a.id[:], b.id[:]) })
	x.view.Store(view)
	return x, nil
}

// Find returns where the chunk of that name is.
func (x *Index) Find(name chunk.Name) (format.Loc, bool) {
	view := x.view.Load()
	if loc, ok := view.findRow(&name); ok {
		return loc, true
	}
	return x.findIn(view.segs, &name)
}

// FindAdded is Find among the chunks that were added since the
// index was opened. The stored segments do not change meanwhile.
func (x *Index) FindAdded(name chunk.Name) (format.Loc, bool) {
	view := x.view.Load()
	if loc, ok := view.findRow(&name); ok {
		return loc, true
	}
	return x.findIn(view.spilled, &name)
}

// findRow finds a chunk among the rows that are in memory.
func (view *indexView) findRow(name *chunk.Name) (format.Loc, bool) {
	if loc, ok := view.active.find(name); ok {
		return loc, true
	}
	for _, t := range view.frozen {
		if loc, ok := t.find(name); ok {
			return loc, true
		}
	}
	return format.Loc{}, false
}

// findIn finds a chunk in segments; of several places it takes the first by compareLoc.
func (x *Index) findIn(segs []*segment, name *chunk.Name) (format.Loc, bool) {
	var best format.Loc
	found := false
	for _, s := range segs {
		loc, ok, err := s.find(name)
		if err != nil {
			x.fault(s, err)
		} else if ok && !x.without[loc.Pack] && (!found || compareLoc(loc, best) < 0) {
			best, found = loc, true
		}
	}
	return best, found
}

// fault tells, once, that a block of a segment did not open on the
// local disk. The next writer fetches it again.
func (x *Index) fault(s *segment, err error) {
	if s.faulty.Swap(true) {
		return
	}
	x.tell(x.in.damage(s, err))
}

// Packs calls each with the packs that the index lists, and with
// the size of each; a pack may come twice.
func (x *Index) Packs(each func(format.PackRef)) {
	view := x.view.Load()
	for _, s := range view.segs {
		for i := range s.packs {
			if p := s.packRef(i); !x.without[p.ID] {
				each(p)
			}
		}
	}
	for _, t := range append(slices.Clone(view.frozen), view.active) {
		for _, p := range t.refs() {
			each(p)
		}
	}
}

// AddPack adds the rows of a whole pack whose names Find does not know.
func (x *Index) AddPack(p format.PackRef, rows []format.Row) (added int) {
	for _, r := range rows {
		if _, ok := x.Find(r.Name); !ok {
			x.Add(r.Name, format.Loc{Pack: p.ID, Off: r.Off, Len: r.Len, Raw: r.Raw})
			added++
		}
	}
	x.SizePack(p)
	if spill := x.Freeze(); spill != nil {
		spill()
	}
	return added
}

// SizePack notes the size of the pack whose chunks were added last.
func (x *Index) SizePack(p format.PackRef) { x.view.Load().active.sizePack(p) }

// Add records where a chunk is whose name Find does not know.
func (x *Index) Add(name chunk.Name, loc format.Loc) { x.view.Load().active.add(name, loc) }

// Freeze is called between two packs. When many rows were added it puts them
// aside and returns the function that writes them as a segment to the local disk,
// which may run beside all else; nil when there is nothing to do. So all rows of
// a pack that a writer adds are in one segment, on which RebuildIndex relies.
func (x *Index) Freeze() (spill func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	view := x.view.Load()
	full := view.active
	if full.n < tableRows {
		return nil
	}
	x.view.Store(&indexView{active: newRowTable(), frozen: append(slices.Clone(view.frozen), full), segs: view.segs, spilled: view.spilled})
	return func() { x.spill(full) }
}

// spill replaces a frozen table by a segment on the local disk.
func (x *Index) spill(t *rowTable) {
	s, err := x.writeLocal(t)
	if err != nil && !x.dir.firstFault(err) {
		return
	} else if err != nil { // the rows stay in memory, which is dear, but no reason to fail
		x.tell(fmt.Errorf("the disk takes no part of the index, which stays in memory: %w", err))
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.own = append(x.own, s)
	view := x.view.Load()
	x.view.Store(&indexView{
		active: view.active, segs: append(slices.Clone(view.segs), s), spilled: append(slices.Clone(view.spilled), s),
		frozen: slices.DeleteFunc(slices.Clone(view.frozen), func(f *rowTable) bool { return f == t }),
	})
}

// writeLocal writes a table as a segment that has its name only when it is stored.
func (x *Index) writeLocal(t *rowTable) (*segment, error) {
	f, err := x.dir.create()
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	var s *segment
	w := fileWriter(f)
	id, _, err := t.write(x.in, w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		s, err = mapSegment(id, x.in.AEAD(id), f)
	}
	if err != nil {
		x.dir.discard(f.Name())
		return nil, err
	}
	s.path = f.Name()
	return s, nil
}

// Store writes the added rows into the store, as segments.
// No call of add, freeze or spill may come any more.
func (x *Index) Store(ctx context.Context) error {
	view := x.view.Load()
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(4) // which bounds the memory: the store takes an object whole
	for _, s := range x.own {
		g.Go(func() error {
			if err := x.in.storeSegment(ctx, s); err != nil {
				return err
			}
			tmp := s.path
			s.path = x.dir.keep(tmp, s.id)
			return nil
		})
		x.classes.count(s.rows)
	}
	for _, t := range append(slices.Clone(view.frozen), view.active) {
		if t.n == 0 {
			continue
		}
		g.Go(func() error { return x.storeTable(ctx, t) })
		x.classes.count(t.n)
	}
	err := g.Wait()
	if err == nil {
		x.own = nil
	}
	return err
}

// storeTable stores a table as a segment, and keeps a copy on the local disk.
func (x *Index) storeTable(ctx context.Context, t *rowTable) error {
	var buf bytes.Buffer
	buf.Grow(t.n*(indexRowSize+4) + 4096)
	id, _, err := t.write(x.in, &buf)
	if err != nil {
		return err
	}
	if err := x.in.Store.Put(ctx, x.in.Key(id), buf.Bytes()); err != nil {
		return fmt.Errorf("store index segment: %w", err)
	}
	if x.dir.path == "" {
		return nil
	}
	f, err := x.dir.create()
	if err != nil {
		return nil //nolint:nilerr // the next writer fetches it
	}
	defer f.Close()
	if _, err := f.Write(buf.Bytes()); err != nil {
		x.dir.discard(f.Name())
		return nil //nolint:nilerr // the next writer fetches it
	}
	x.dir.keep(f.Name(), id)
	return nil
}

// storeSegment stores a segment of the local disk. It copies it first: a disk
// that fails under a mapping would end the process while the store reads it.
func (in Place) storeSegment(ctx context.Context, s *segment) error {
	body, err := offheap.Take(len(s.data))
	if err != nil {
		return err
	}
	defer offheap.Free(body)
	if err := guardFaults(func() { copy(body, s.data) }); err != nil {
		return err
	}
	if err := in.Store.Put(ctx, in.Key(s.id), body); err != nil {
		return fmt.Errorf("store index segment: %w", err)
	}
	return nil
}

// Close frees the index. Nobody may look up any more. It is idempotent.
func (x *Index) Close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	view := x.view.Swap(&indexView{active: newRowTable()})
	for _, s := range x.own {
		x.dir.discard(s.path)
	}
	x.own = nil
	for _, s := range view.segs {
		s.close()
	}
}

// Without tells whether the pack is one of those that are not to be used.
func (x *Index) Without(p format.PackID) bool { return x.without[p] }

// MergeDue tells whether the stored segments are to be merged.
func (x *Index) MergeDue() bool { return x.classes.due() }

// Merge is Place.Merge with the packs that x leaves out, of which lost are gone from the store.
func (x *Index) Merge(ctx context.Context, dir string, lost []format.PackID) error {
	return x.in.Merge(ctx, dir, x.without, lost, x.tell)
}
