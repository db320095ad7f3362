package known

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

// ImageBase says which part of an image need not be read, since an earlier backup has it.
type ImageBase struct {
	// Changed are the ranges that may differ from that backup, in order and without overlap.
	Changed []snapshot.Range
	// Next yields the extents of that backup, of its whole image, in order; false
	// at the end. It is called by one goroutine at a time, and not always the same.
	Next func() (vault.Extent, bool, error)
}

// imageChanges is what Changes of an image tell. *snapshot.Changes does.
type imageChanges interface {
	Image() (ranges []snapshot.Range, exact bool)
}

// errEnough ends the reading of a recipe of which no more is wanted.
var errEnough = errors.New("no more is wanted")

// Image returns which part of an image need not be read; nil when all has to be read. The caller
// runs feed beside the reading: it brings the extents of the base's backup, until done is closed.
func (h *History) Image(ctx context.Context, v Volume, done <-chan struct{}) (base *ImageBase, feed func(context.Context) error) {
	if v.Base == nil || v.ReadAll || h.distrusts(v.Name, ByBase) {
		return nil, nil
	}
	changes, ok := v.Base.Changes.(imageChanges)
	if !ok {
		return nil, nil
	}
	items := h.roundItems(ctx, v)
	if items == nil {
		items = h.storedItems(ctx, v)
	}
	if items == nil {
		return nil, nil
	}
	base = &ImageBase{}
	base.Changed, _ = changes.Image()
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
	base.Next = func() (vault.Extent, bool, error) {
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
func (h *History) storedItems(ctx context.Context, v Volume) eachItem {
	m, err := h.Vault.Manifest(ctx, vault.BackupRef{Instance: h.Instance, ID: v.Base.Catalogue})
	if err != nil || slices.ContainsFunc(m.Packs, func(p vault.PackRef) bool { return h.Without[p.ID] }) {
		return nil
	}
	vol, err := m.Volume(v.Name)
	if err != nil || vol.Kind != vault.KindImage {
		return nil
	}
	return func(ctx context.Context, take func([]vault.Item) error) error { return h.Vault.Items(ctx, vol, take) }
}

// roundItems returns the items of the round of pre-copy whose view the base is. It
// returns nil when the base is of no round, or the content that the round stored is gone.
func (h *History) roundItems(ctx context.Context, v Volume) eachItem {
	if h.Catalogues == "" {
		return nil
	}
	items := func(ctx context.Context, take func([]vault.Item) error) error {
		last, f, err := h.Vault.LastCatalogue(h.Catalogues, h.Instance, v.Name)
		if err != nil {
			return err
		}
		defer f.Close() // only read
		if last.ID() != v.Base.Catalogue {
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
			if slices.ContainsFunc(it.Extents, func(x vault.Extent) bool { return h.Without[x.Chunk.Pack] }) {
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

// Round begins the catalogue of the extents that a round of pre-copy stores of an
// image that lies on that file system. Round returns nil where no catalogue is
// kept. A base tells the later changes, so no row rests on times.
func (h *History) Round(v Volume, fileSystem string) *Catalogue {
	if !h.Precopy || h.Catalogues == "" {
		return nil
	}
	rests := vault.Evidence{FileSystem: fileSystem, Clock: h.Booted, Young: h.Created}
	made, err := h.Vault.BeginCatalogue(h.Catalogues, h.Instance, v.Name, rests)
	if err != nil {
		h.Warn(tree.Warning{
			Path: h.Catalogues, What: fmt.Sprintf("catalogue of %s, volume %s: %v; the image is read again in the hold", h.Instance, v.Name, err),
		})
		return nil
	}
	c := &Catalogue{volume: v.Name, Rests: rests, clock: h.Clock, new: made, release: func() {}}
	h.catalogues = append(h.catalogues, c)
	return c
}
