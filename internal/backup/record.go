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

// recorder writes the recipe of a volume. It is for one goroutine.
type recorder struct {
	p      *pipeline
	recipe *vault.RecipeWriter
	volume *vault.Volume // whose counts it keeps
	heirs  heirs
	late   *worker // its own; nil while it had nothing to read
}

// record writes the recipe.
func (r *recorder) record(ctx context.Context) error {
	for u := range r.p.toRecipe {
		var err error
		if u.large {
			err = r.recordLarge(ctx, u)
		} else {
			err = r.recordBundle(ctx, u)
		}
		if err != nil {
			return err
		}
		r.p.weight.Release(u.weight)
	}
	return nil
}

// recordBundle writes the items of a bundle, once it was read.
func (r *recorder) recordBundle(ctx context.Context, u *unit) error {
	select {
	case <-u.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.heirs.lost(u.moved)
	late := u.late
	for i, e := range u.entries {
		if e == nil {
			continue // left out
		}
		if len(late) > 0 && late[0] == i {
			late = late[1:]
			if _, err := r.recordLate(ctx, e); err != nil {
				return err
			}
			continue
		}
		if e.HasLinkTo {
			if done, err := r.inherit(ctx, e); err != nil {
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
			if err := r.add(itemOf(e, part, first)); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordLarge writes the item of one file and its continuations, as the parts come.
func (r *recorder) recordLarge(ctx context.Context, u *unit) error {
	for first := true; ; first = false {
		select {
		case part, more := <-u.storedParts:
			if first {
				r.heirs.lost(u.moved)
			}
			if u.entries[0] == nil {
				return nil // left out
			}
			if more || first { // a file without any part has an item all the same
				if err := r.add(itemOf(u.entries[0], part, first)); err != nil {
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
func (r *recorder) add(it vault.Item) error {
	if !it.Continued {
		r.volume.Entries++
		r.p.recorded.entries.Add(1)
		switch it.Kind {
		case tree.File:
			r.volume.Files++
			r.p.recorded.files.Add(1)
		case tree.Dir:
			r.volume.Dirs++
			r.p.recorded.dirs.Add(1)
		}
	}
	for _, x := range it.Extents {
		r.volume.Bytes += uint64(x.Len)
	}
	return r.recipe.Add(it)
}

// recordLate reads a file that no worker has read, and writes its item.
// It says whether the path still had the file that the walk saw there.
func (r *recorder) recordLate(ctx context.Context, e *tree.Entry) (same bool, err error) {
	if r.late == nil {
		r.late = newWorker(r.p)
		r.late.own, r.late.workerMemory = true, &workerMemory{}
	}
	u := newLargeFile(e)
	g, gctx := contain.WithContext(ctx)
	g.Go(func() error { return u.read(gctx, r.late) })
	g.Go(func() error { return r.recordLarge(gctx, u) })
	err = g.Wait()
	return len(u.moved) == 0, err
}

// inherit treats a further name of a file. If the recipe does not have the file
// under its first name, this name takes its place, with content and metadata,
// and later names refer to this one. done says that its item is written.
func (r *recorder) inherit(ctx context.Context, e *tree.Entry) (done bool, err error) {
	first := e.LinkTo
	heir, lost := r.heirs[first]
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
	same, err := r.recordLate(ctx, e)
	if err == nil && same {
		r.heirs[first] = path
		r.p.away.stored(e) // the file is in the backup, where its first name vanished
	}
	return true, err
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
