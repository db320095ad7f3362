package backup

import (
	"context"

	"holdfast/internal/backup/known"
	"holdfast/internal/contain"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// The end of the pipeline: one goroutine takes the units in the order of the
// walk and writes the recipe. What turns out only there to need a reader, it
// reads itself: a file that grew too large for its bundle after the walk, and
// a further name of a file whose first name was gone when it was to be read.

// record writes the recipe.
func (p *pipeline) record(ctx context.Context, rec *vault.RecipeWriter, vol *vault.Volume) error {
	for u := range p.order {
		var err error
		if u.large {
			err = p.recordLarge(ctx, rec, vol, u)
		} else {
			err = p.recordBundle(ctx, rec, vol, u)
		}
		if err != nil {
			return err
		}
		p.weight.Release(u.weight)
	}
	return nil
}

// recordBundle writes the items of a bundle, once it was read.
func (p *pipeline) recordBundle(ctx context.Context, rec *vault.RecipeWriter, vol *vault.Volume, u *unit) error {
	select {
	case <-u.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.heirs.lost(u.moved)
	late := u.late
	for i, e := range u.entries {
		if e == nil {
			continue // left out
		}
		if len(late) > 0 && late[0] == i {
			late = late[1:]
			if _, err := p.recordLate(ctx, rec, vol, e); err != nil {
				return err
			}
			continue
		}
		if e.HasLinkTo {
			if done, err := p.inherit(ctx, rec, vol, e); err != nil {
				return err
			} else if done {
				continue
			}
		}
		var x known.Stretch
		if u.extents != nil {
			x = known.Stretch{Extents: u.extents[i], Sums: u.sums[i]}
		}
		// In the same parts as when the file was read, so that its page is the same bytes.
		for first := true; first || len(x.Extents) > 0; first = false {
			var part known.Stretch
			part, x = x.First(min(len(x.Extents), partExtents))
			if err := p.add(rec, vol, itemOf(e, part, first)); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordLarge writes the item of one file and its continuations, as the parts come.
func (p *pipeline) recordLarge(ctx context.Context, rec *vault.RecipeWriter, vol *vault.Volume, u *unit) error {
	for first := true; ; first = false {
		select {
		case part, more := <-u.parts:
			if first {
				p.heirs.lost(u.moved)
			}
			if u.entries[0] == nil {
				return nil // left out
			}
			if more || first { // a file without any part has an item all the same
				if err := p.add(rec, vol, itemOf(u.entries[0], part, first)); err != nil {
					return err
				}
			}
			if !more {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// itemOf is the item of an entry with the first part of its
// extents, or the continuation that has a later one.
func itemOf(e *tree.Entry, part known.Stretch, first bool) vault.Item {
	if first {
		return vault.Item{Entry: *e, Extents: part.Extents, Sums: part.Sums}
	}
	return vault.Item{Entry: tree.Entry{Path: e.Path}, Continued: true, Extents: part.Extents, Sums: part.Sums}
}

// add writes an item, and counts it.
func (p *pipeline) add(rec *vault.RecipeWriter, vol *vault.Volume, it vault.Item) error {
	if !it.Continued {
		vol.Entries++
		p.recorded.entries.Add(1)
		switch it.Kind {
		case tree.File:
			vol.Files++
			p.recorded.files.Add(1)
		case tree.Dir:
			vol.Dirs++
			p.recorded.dirs.Add(1)
		}
	}
	for _, x := range it.Extents {
		vol.Bytes += uint64(x.Len)
	}
	return rec.Add(it)
}

// newLargeFile makes the unit of a file that is read by itself.
func newLargeFile(e *tree.Entry) *unit {
	u := newLarge(e)
	u.read = func(ctx context.Context, w *worker) error { return w.largeFile(ctx, u) }
	return u
}

// newLarge makes a unit without read, whose extents come in parts.
func newLarge(e *tree.Entry) *unit {
	return &unit{
		entries: []*tree.Entry{e}, large: true, weight: weightOf(e),
		parts: make(chan known.Stretch, partsAhead), done: make(chan struct{}),
	}
}

// recordLate reads a file that no worker has read, and writes its item.
// It says whether the path still had the file that the walk saw there.
func (p *pipeline) recordLate(ctx context.Context, rec *vault.RecipeWriter, vol *vault.Volume, e *tree.Entry) (same bool, err error) {
	if p.late == nil {
		p.late = newWorker(p)
		p.late.own, p.late.scratch = true, &scratch{}
	}
	u := newLargeFile(e)
	g, gctx := contain.WithContext(ctx)
	g.Go(func() error { return u.read(gctx, p.late) })
	g.Go(func() error { return p.recordLarge(gctx, rec, vol, u) })
	err = g.Wait()
	return len(u.moved) == 0, err
}

// heirs has, by the first name of a file with several, the name that
// took its place in the recipe; "" while none did. Only first names
// that lead to another file by now are in it. Its zero value is ready.
type heirs map[string]string

// lost notes first names that do not lead to the file that the walk saw there.
func (h *heirs) lost(paths []string) {
	for _, path := range paths {
		if *h == nil {
			*h = heirs{}
		}
		(*h)[path] = ""
	}
}

// inherit treats a further name of a file. If the recipe does not have the file
// under its first name, this name takes its place, with content and metadata,
// and later names refer to this one. done says that its item is written.
func (p *pipeline) inherit(ctx context.Context, rec *vault.RecipeWriter, vol *vault.Volume, e *tree.Entry) (done bool, err error) {
	first := e.LinkTo
	heir, lost := p.heirs[first]
	if !lost {
		return false, nil
	}
	if heir != "" {
		e.LinkTo = heir
		return false, nil
	}
	if e.Kind != tree.File {
		return false, nil
	}
	path := e.Path
	e.Linked = true
	same, err := p.recordLate(ctx, rec, vol, e)
	if err == nil && same {
		p.heirs[first] = path
		p.away.stored(e) // the file is in the backup, where its first name vanished
	}
	return true, err
}
