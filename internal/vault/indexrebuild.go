package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// checkIndex reads all segments that the store has, and opens every block.
// It returns the damaged ones; its error is for what kept it from looking.
func (v *Vault) checkIndex(ctx context.Context) (*segmentSet, error) {
	// Without a folder, so that the segments of the store are read.
	set, err := v.openSegments(ctx, "", func(error) {})
	if err != nil {
		return nil, err
	}
	for id, s := range set.open {
		if err := s.check(); err != nil {
			set.damaged[id] = &CorruptError{Object: v.segmentKey(id), Reason: err.Error()}
			s.close()
			delete(set.open, id)
		}
	}
	return set, nil
}

// IndexReport is what RebuildIndex found and did.
type IndexReport struct {
	Packs  int `json:"packs"`  // that the store has
	Read   int `json:"read"`   // of them: the packs that no sound segment listed
	Chunks int `json:"chunks"` // of those, that the index did not have
	// packs that a segment listed and that the store does not have in
	// that size, or that are condemned
	Gone     int      `json:"gone"`
	Replaced int      `json:"replaced"` // segments that were damaged, or listed packs that are gone
	Damaged  []string `json:"damaged"`  // packs that do not open; their chunks are not in the index
}

// RebuildIndex makes the index list all chunks of the packs in the store. It reads the
// tables of the packs that no sound segment lists, stores new segments, and only then
// deletes damaged ones; segments that list missing packs are written again without
// those rows. Backups may run meanwhile. A pack that no manifest names comes into the
// index too: it is as good as any, unless it is condemned. o is as for BeginSession.
func (v *Vault) RebuildIndex(ctx context.Context, o SessionOptions) (IndexReport, error) {
	s, err := v.BeginSession(ctx, o)
	if err != nil {
		return IndexReport{}, err
	}
	report, err := v.rebuildIndex(ctx, s.Condemned())
	return report, errors.Join(err, s.End(ctx))
}

func (v *Vault) rebuildIndex(ctx context.Context, condemned []PackID) (IndexReport, error) {
	var report IndexReport
	set, err := v.checkIndex(ctx)
	if err != nil {
		return report, err
	}
	defer set.close()
	// After the segments: a pack that a segment lists was stored before the segment.
	stored := map[PackID]int64{}
	if err := v.listPacks(ctx, "", func(id PackID, info obs.Info) { stored[id] = info.Size }); err != nil {
		return report, err
	}
	for _, p := range condemned {
		delete(stored, p)
	}
	report.Packs = len(stored)
	// A pack of another size than it had is as good as gone, and its
	// table, which does not open, tells of the damage.
	listed, gone := map[PackID]bool{}, map[PackID]bool{}
	for _, s := range set.open {
		for i := range s.packs {
			if p := s.packRef(i); stored[p.ID] == p.Size {
				listed[p.ID] = true
			} else {
				gone[p.ID] = true
			}
		}
	}
	report.Gone = len(gone)

	x := &index{v: v, dir: set.dir, without: gone, tell: func(error) {}}
	defer x.close()
	view := &indexView{active: newRowTable()}
	for _, s := range set.open {
		view.segs = append(view.segs, s)
	}
	x.view.Store(view)
	if err := v.readTables(ctx, x, stored, listed, &report); err != nil {
		return report, err
	}
	if err := x.store(ctx); err != nil {
		return report, err
	}
	return report, v.replaceUnsound(ctx, set, gone, &report)
}

// readTables adds the rows of the stored packs that are not listed.
func (v *Vault) readTables(ctx context.Context, x *index, stored map[PackID]int64, listed map[PackID]bool, report *IndexReport) error {
	todo := slices.Collect(maps.Keys(stored))
	todo = slices.DeleteFunc(todo, func(p PackID) bool { return listed[p] })
	var mu sync.Mutex // over x.add and the report
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(16)
	for _, id := range todo {
		g.Go(func() error {
			rows, err := v.packTable(ctx, id, stored[id])
			if errors.Is(err, ErrCorrupt) {
				if _, serr := v.st.Stat(ctx, v.packKey(id)); errors.Is(serr, obs.ErrNotFound) {
					return nil // deleted since it was listed
				}
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrCorrupt), errors.Is(err, obs.ErrCold):
				report.Damaged = append(report.Damaged, v.packKey(id))
				return nil
			case err != nil:
				return fmt.Errorf("read table of pack %s: %w", id, err)
			}
			report.Read++
			report.Chunks += x.addPack(PackRef{ID: id, Size: stored[id]}, rows)
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(report.Damaged)
	return err
}

// replaceUnsound deletes the damaged and the replaced segments, and
// writes segments that list missing packs again without those rows.
func (v *Vault) replaceUnsound(ctx context.Context, set *segmentSet, gone map[PackID]bool, report *IndexReport) error {
	unsound := slices.Collect(maps.Keys(set.damaged))
	report.Replaced = len(unsound)
	for id := range set.replaced {
		if _, ok := set.listed[id]; ok {
			unsound = append(unsound, id)
		}
	}
	for _, s := range set.open {
		if !s.lists(gone) {
			continue
		}
		if err := v.mergeGroup(ctx, set, []*segment{s}, nil, gone); err != nil {
			return err
		}
		report.Replaced++
	}
	return v.deleteSegments(ctx, unsound)
}
