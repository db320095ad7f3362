package vault

import (
	"context"
	"slices"
)

// EachChunk calls each with the place of every chunk that a backup needs: page lists, pages, stat
// pages and content. A chunk that the recipes name several times comes several times. EachChunk
// reads the recipes and no content. ErrCorrupt, ErrNewer.
func (v *Vault) EachChunk(ctx context.Context, m *Manifest, each func(ChunkKind, Loc)) error {
	all := func(lists [][]PageRef) ([]PageRef, error) { return slices.Concat(lists...), nil }
	for i := range m.Volumes {
		vol := &m.Volumes[i]
		for _, list := range slices.Concat(vol.Lists, vol.Stats) {
			each(Meta, list.Loc())
		}
		err := v.readPages(ctx, vol.Lists, all, func(_ int, ref PageRef, plain []byte) error {
			each(Meta, ref.Loc())
			items, err := v.decodePage(plain)
			if err != nil {
				return v.badMeta(ref, err)
			}
			for _, item := range items {
				for _, extent := range item.Extents {
					each(Content, extent.Chunk)
				}
			}
			return nil
		})
		if err == nil {
			err = v.readPages(ctx, vol.Stats, all, func(_ int, ref PageRef, _ []byte) error {
				each(Meta, ref.Loc())
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
