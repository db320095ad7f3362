package backup

import (
	"context"
	"os"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// volume backs up one source.
func (r *run) volume(ctx context.Context, s Source) (vault.Volume, error) {
	info, err := os.Stat(s.Root)
	if err != nil {
		return vault.Volume{}, err
	}
	if !info.IsDir() {
		return r.image(ctx, s)
	}
	root, err := tree.OpenRoot(s.Root)
	if err != nil {
		return vault.Volume{}, err
	}
	defer root.Close()
	for path, folder := range s.Nested {
		if err := root.Graft(path, folder); err != nil {
			return vault.Volume{}, err
		}
	}
	p, err := newPipeline(r, root, s)
	if err != nil {
		return vault.Volume{}, err
	}
	rec, err := r.w.NewRecipe(r.packs)
	if err != nil {
		return vault.Volume{}, err
	}
	vol := vault.Volume{Name: s.Volume, Kind: vault.KindTree, FileSystem: root.FileSystem()}
	cat := r.history.Catalogue(ctx, root, s.volume())
	if cat != nil && cat.Rows {
		p.before = cat.Before
		p.name, p.by = s.Volume, cat.By()
		rec.Tap = cat.Page
		// else no later backup could believe them
		if rec.KeepStats = cat.Rests.Mounted != ""; rec.KeepStats {
			vol.SetEvidence(cat.Rests)
		}
	}
	vol.Excludes, vol.ExcludeCaches = s.Exclude, s.ExcludeCaches
	vol, err = p.flow(ctx, rec, vol, func(ctx context.Context) error { return p.walk(ctx, s.ExcludeCaches) })
	if err == nil && !r.o.Precopy { // the backup has the entries that a round lacks
		err = p.away.settle(ctx, root, p.exclude)
	}
	if p.doubtful.Load() {
		vol.Stats = nil
		cat.Drop()
	}
	return vol, err
}
