package backup

import (
	"context"
	"errors"
	"slices"

	"holdfast/internal/snapshot"
	"holdfast/internal/vault"
)

// An image has no catalogue: where its content is, the recipe of its last backup tells, of which the base was. It is read from the
// store while the image is, a page at a time.

// imageChanges is what Changes of an image tell. *snapshot.Changes does.
type imageChanges interface {
	Image() (ranges []snapshot.Range, exact bool)
}

// errEnough ends the reading of a recipe of which no more is wanted.
var errEnough = errors.New("no more is wanted")

// imageBase finds what of an image need not be read; nil when all has to be. feed brings the extents of the base's backup, until
// done is closed; who takes them waits for it.
func (r *run) imageBase(ctx context.Context, s Source, done <-chan struct{}) (base *imageBase, feed func(context.Context) error) {
	if s.Base == nil || s.readAll || r.o.On.drifted.has(distrustKey(r.o.Vault, r.o.Instance, s.Volume, ByBase)) {
		return nil, nil
	}
	changes, ok := s.Base.Changes.(imageChanges)
	if !ok {
		return nil, nil
	}
	// A backup that is gone, or that can't be read now, costs a full read.
	m, err := r.o.Vault.Manifest(ctx, vault.BackupRef{Instance: r.o.Instance, ID: s.Base.Catalogue})
	if err != nil || slices.ContainsFunc(m.Packs, func(p vault.PackRef) bool { return r.gone[p.ID] }) {
		return nil, nil
	}
	vol, err := m.Volume(s.Volume)
	if err != nil || vol.Kind != vault.KindImage {
		return nil, nil
	}
	base = &imageBase{}
	base.changed, _ = changes.Image()
	pages := make(chan []vault.Extent)
	ended := make(chan error, 1)
	feed = func(ctx context.Context) error {
		err := r.o.Vault.Items(ctx, vol, func(items []vault.Item) error {
			for _, it := range items {
				select {
				case pages <- it.Extents:
				case <-done:
					return errEnough
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			err = nil
		}
		ended <- err
		close(pages)
		return err
	}
	var page []vault.Extent
	base.next = func() (vault.Extent, bool, error) {
		for len(page) == 0 {
			var more bool
			if page, more = <-pages; !more {
				return vault.Extent{}, false, <-ended
			}
		}
		x := page[0]
		page = page[1:]
		return x, true, nil
	}
	return base, feed
}
