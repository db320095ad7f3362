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
	"holdfast/internal/vault/index"
)

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
	set, err := v.index().Check(ctx)
	if err != nil {
		return report, err
	}
	defer set.Close()
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
	set.EachPack(func(p PackRef) {
		if stored[p.ID] == p.Size {
			listed[p.ID] = true
		} else {
			gone[p.ID] = true
		}
	})
	report.Gone = len(gone)

	x := set.Index(gone)
	defer x.Close()
	if err := v.readTables(ctx, x, stored, listed, &report); err != nil {
		return report, err
	}
	if err := x.Store(ctx); err != nil {
		return report, err
	}
	report.Replaced, err = set.ReplaceUnsound(ctx, gone)
	return report, err
}

// readTables adds the rows of the stored packs that are not listed.
func (v *Vault) readTables(ctx context.Context, x *index.Index, stored map[PackID]int64, listed map[PackID]bool, report *IndexReport) error {
	todo := slices.Collect(maps.Keys(stored))
	todo = slices.DeleteFunc(todo, func(p PackID) bool { return listed[p] })
	var mu sync.Mutex // over x.AddPack and the report
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
			report.Chunks += x.AddPack(PackRef{ID: id, Size: stored[id]}, rows)
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(report.Damaged)
	return err
}

// ForgetPacks takes packs that can't be used out of the index, so that
// no backup finds their chunks. dir is as in WriterOptions.IndexDir.
func (v *Vault) ForgetPacks(ctx context.Context, dir string, packs []PackID) error {
	without := make(map[PackID]bool, len(packs))
	for _, p := range packs {
		without[p] = true
	}
	return v.index().Merge(ctx, dir, without, packs, func(error) {})
}
