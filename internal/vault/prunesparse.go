package vault

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
)

// maxSparse is how many packs a prune rewrites at most, which bounds
// its memory for their chunks: the next prune goes on.
const maxSparse = 1 << 14

// sparse are the packs whose needed chunks a prune moves into new packs.
type sparse struct {
	at    map[int]*sparsePack // by the place of the pack in the list
	order []int               // of the places: as recipes named their chunks first
	done  map[PackID]bool     // the packs that have a relocation of this run
}

// sparsePack is one of them.
type sparsePack struct {
	need   map[uint32]bool // offsets of the needed chunks
	closed bool            // the pack stays as it is
}

// packs returns the ids of the packs, in order. s may be nil.
func (s *sparse) packs(set *packSet) (all []PackID) {
	if s == nil {
		return nil
	}
	for at := range s.at {
		all = append(all, set.ids[at])
	}
	slices.SortFunc(all, comparePacks)
	return all
}

// moved tells whether the needed chunks of a pack were moved. s may be nil.
func (s *sparse) moved(id PackID) bool { return s != nil && s.done[id] }

// sparseFind is a pack that an estimate found sparse.
type sparseFind struct {
	at     int
	needed int64 // bytes, at most
}

// findSparse looks for packs of which backups need no more than the percentage of
// PruneOptions: the sparsest first, until MaxRewrite bytes are to be stored anew.
func (p *prune) findSparse(ctx context.Context) (bool, error) {
	if p.o.Sparse <= 0 || len(p.packs.ids) == 0 {
		return false, nil
	}
	refs, err := p.v.Backups(ctx, "")
	if err != nil {
		return false, err
	}
	refs = slices.DeleteFunc(refs, func(r BackupRef) bool { return p.without[fullName(r)] })
	live := newLiveBlocks(p.packs, p.v.params.Pack, rand.IntN(len(p.packs.ids)))
	w := &recipeWalk{p: p, mark: live.mark, seen: map[chunkPlace]struct{}{}}
	if _, err := p.walkBackups(ctx, refs, func(*Manifest) bool { return true }, w, live.whole); err != nil {
		return false, err
	}
	var found []sparseFind
	for at := range p.packs.ids {
		if live.of(at) == nil || !p.packs.isNamed(at) {
			continue
		}
		if n := live.bytes(at); 100*float64(n) <= p.o.Sparse*float64(p.packs.sizes[at]) {
			found = append(found, sparseFind{at, n})
		}
	}
	if found, err = p.spareLockedSparse(ctx, found); err != nil {
		return false, err
	}
	share := func(f sparseFind) float64 { return float64(f.needed) / float64(p.packs.sizes[f.at]) }
	slices.SortStableFunc(found, func(a, b sparseFind) int { return cmp.Compare(share(a), share(b)) })
	s := &sparse{at: map[int]*sparsePack{}, done: map[PackID]bool{}}
	left := p.o.MaxRewrite
	for _, f := range found {
		if left -= f.needed; p.o.MaxRewrite > 0 && left < 0 || len(s.at) == maxSparse {
			break
		}
		s.at[f.at] = &sparsePack{need: map[uint32]bool{}}
		p.report.Sparse++
		p.report.SparseBytes += int64(p.packs.sizes[f.at]) - f.needed
	}
	if len(s.at) > 0 {
		p.sparse = s
	}
	return false, nil
}

// spareLockedSparse leaves out the packs that the store locks still.
func (p *prune) spareLockedSparse(ctx context.Context, found []sparseFind) ([]sparseFind, error) {
	keys := make([]string, len(found))
	for i, f := range found {
		keys[i] = p.v.packKey(p.packs.ids[f.at])
	}
	locked, err := p.v.lockedUntil(ctx, keys, p.o.Now())
	if err != nil {
		return nil, err
	}
	p.report.Locked += len(locked)
	return slices.DeleteFunc(found, func(f sparseFind) bool {
		_, is := locked[p.v.packKey(p.packs.ids[f.at])]
		return is
	}), nil
}

// readNeeds reads which chunks of the sparse packs the backups need. The sparse packs
// are condemned and the writers that did not see it have ended, so no other backup
// will ever need a chunk of them. A backup that was deleted since the second reading
// of the manifests counts as not found there, so that the prune waits for its readers.
func (p *prune) readNeeds(ctx context.Context) (bool, error) {
	s := p.sparse
	if s == nil {
		return false, nil
	}
	refs, err := p.v.Backups(ctx, "")
	if err != nil {
		return false, err
	}
	refs = slices.DeleteFunc(refs, func(r BackupRef) bool { return !p.read[fullName(r)] })
	w := &recipeWalk{p: p, seen: map[chunkPlace]struct{}{}, mark: func(at int, off, _ uint32) {
		if one := s.at[at]; one != nil {
			if len(one.need) == 0 {
				s.order = append(s.order, at)
			}
			one.need[off] = true
		}
	}}
	wanted := func(m *Manifest) bool {
		return slices.ContainsFunc(m.Packs, func(ref PackRef) bool { return p.reachesSparse(ref.ID) })
	}
	there, err := p.walkBackups(ctx, refs, wanted, w, s.leave)
	if err != nil {
		return false, err
	}
	for name := range p.read {
		if !there[name] {
			delete(p.read, name)
		}
	}
	for at, one := range s.at {
		if len(one.need) == 0 {
			s.order = append(s.order, at)
		}
	}
	return false, p.leaveLocked(ctx)
}

// leaveLocked leaves the sparse packs as they are that a backup has locked since they were chosen.
func (p *prune) leaveLocked(ctx context.Context) error {
	var keys []string
	for at := range p.sparse.at {
		keys = append(keys, p.v.packKey(p.packs.ids[at]))
	}
	locked, err := p.v.lockedUntil(ctx, keys, p.o.Now())
	if err != nil {
		return err
	}
	for at := range p.sparse.at {
		if _, is := locked[p.v.packKey(p.packs.ids[at])]; is {
			p.sparse.leave(at)
			p.report.Locked++
		}
	}
	return nil
}

// leave says that the pack at a place stays as it is.
func (s *sparse) leave(at int) {
	if one := s.at[at]; one != nil {
		one.closed = true
	}
}

// reachesSparse tells whether a pack is sparse, or its chunks were moved into a sparse pack.
func (p *prune) reachesSparse(id PackID) (reaches bool) {
	p.eachPlace(id, 0, func(at int) { reaches = reaches || p.sparse.at[at] != nil })
	return reaches
}
