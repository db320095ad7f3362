package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Where the content of an image's base is, the recipe of its backup
// tells, or the catalogue of the round of pre-copy that it is of, which
// no backup has. It is read while the image is, a page at a time.

// imageChanges is what Changes of an image tell. *snapshot.Changes does.
type imageChanges interface {
	Image() (ranges []snapshot.Range, exact bool)
}

// errEnough ends the reading of a recipe of which no more is wanted.
var errEnough = errors.New("no more is wanted")

// imageBase finds what of an image need not be read; nil when all has to be. feed brings
// the extents of the base's backup, until done is closed; who takes them waits for it.
func (r *run) imageBase(ctx context.Context, s Source, done <-chan struct{}) (base *imageBase, feed func(context.Context) error) {
	if s.Base == nil || s.readAll || r.o.On.drifted.has(distrustKey(r.o.Vault, r.o.Instance, s.Volume, ByBase)) {
		return nil, nil
	}
	changes, ok := s.Base.Changes.(imageChanges)
	if !ok {
		return nil, nil
	}
	items := r.roundItems(ctx, s)
	if items == nil {
		items = r.storedItems(ctx, s)
	}
	if items == nil {
		return nil, nil
	}
	base = &imageBase{}
	base.changed, _ = changes.Image()
	pages := make(chan []vault.Extent)
	ended := make(chan error, 1)
	feed = func(ctx context.Context) error {
		err := items(ctx, func(items []vault.Item) error {
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

// eachItem gives the items of an image in order, a page at a time, until take fails.
type eachItem func(ctx context.Context, take func([]vault.Item) error) error

// storedItems returns the items of the backup whose view the base is. It returns nil when
// the backup is gone, can't be read now, or holds lost packs: that costs a full read.
func (r *run) storedItems(ctx context.Context, s Source) eachItem {
	m, err := r.o.Vault.Manifest(ctx, vault.BackupRef{Instance: r.o.Instance, ID: s.Base.Catalogue})
	if err != nil || slices.ContainsFunc(m.Packs, func(p vault.PackRef) bool { return r.gone[p.ID] }) {
		return nil
	}
	vol, err := m.Volume(s.Volume)
	if err != nil || vol.Kind != vault.KindImage {
		return nil
	}
	return func(ctx context.Context, take func([]vault.Item) error) error { return r.o.Vault.Items(ctx, vol, take) }
}

// roundItems returns the items of the round of pre-copy whose view the base is. It
// returns nil when the base is of no round, or the content that the round stored is gone.
func (r *run) roundItems(ctx context.Context, s Source) eachItem {
	if r.o.CatalogueDir == "" {
		return nil
	}
	items := func(ctx context.Context, take func([]vault.Item) error) error {
		last, f, err := r.o.Vault.LastCatalogue(r.o.CatalogueDir, r.o.Instance, s.Volume)
		if err != nil {
			return err
		}
		defer f.Close() // only read
		if last.ID() != s.Base.Catalogue {
			return errOther
		}
		for {
			page, err := last.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = take(page)
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
		}
	}
	// Read to its end beforehand: in the middle of the image it is too late for a full read.
	err := items(ctx, func(page []vault.Item) error {
		for _, it := range page {
			if slices.ContainsFunc(it.Extents, func(x vault.Extent) bool { return r.gone[x.Chunk.Pack] }) {
				return errOther
			}
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return items
}

// errOther says that a catalogue can't be used for a base.
var errOther = errors.New("the catalogue is of another view, or of what is gone")

// roundCatalogue notes the extents that a round of pre-copy stores of
// an image that lies on that file system. It returns nil where nothing
// is noted. A base tells the later changes, so no row rests on times.
func (r *run) roundCatalogue(rec *vault.RecipeWriter, s Source, on string) *catalogue {
	if !r.o.Precopy || r.o.CatalogueDir == "" {
		return nil
	}
	rest := vault.Evidence{FileSystem: on, Clock: r.clock, Young: r.res.Created}
	made, err := r.o.Vault.BeginCatalogue(r.o.CatalogueDir, r.o.Instance, s.Volume, rest)
	if err != nil {
		r.warnings.Warn(tree.Warning{
			Path: r.o.CatalogueDir, What: fmt.Sprintf("catalogue of %s, volume %s: %v; the image is read again in the hold", r.o.Instance, s.Volume, err),
		})
		return nil
	}
	c := &catalogue{volume: s.Volume, rest: rest, clock: r.o.Clock, new: made, done: func() {}}
	r.cats = append(r.cats, c)
	rec.Tap = c.page
	return c
}
