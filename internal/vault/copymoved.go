package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// A prune at the source may move chunks while a copy is under way: then a pack that a manifest
// names is gone, and a relocation tells where its chunks are. So a copy lists relocations
// before and after the packs, and again when it has read the packs, until no relocation is new.

// listBlobs lists the packs, the index segments and the relocations of the source that the copy
// is about.
func (c *copier) listBlobs(ctx context.Context) error {
	for range copyRounds {
		before, err := c.src.listSmall(ctx, &movedKind, "")
		if err != nil {
			return err
		}
		c.from.moved = before
		c.noteMoved(before)
		if c.o.Instance != "" {
			err = c.namedOnly(ctx)
		} else if c.from.index, err = c.src.segmentRefs(ctx); err == nil {
			c.from.packs, err = c.src.packRefs(ctx)
		}
		if err != nil {
			return err
		}
		after, err := c.src.listSmall(ctx, &movedKind, "")
		if err != nil {
			return err
		}
		if !hasNew(after, before) {
			return nil
		}
	}
	return errCompacted
}

// noteMoved notes the relocations that the source has.
func (c *copier) noteMoved(all []smallRef) {
	c.moved, c.movedPacks = all, map[PackID]bool{}
	for _, r := range all {
		id, _ := packOfMoved(r.name)
		c.movedPacks[id] = true
	}
}

// errCompacted is the end of a copy that a compacting prune outruns.
var errCompacted = errors.New("a prune moves chunks of the source all the time: copy again when it has ended")

// hasNew tells whether a list has a name that an earlier list does not have.
func hasNew(now, before []smallRef) bool {
	return slices.ContainsFunc(now, func(r smallRef) bool {
		_, had := findSmall(before, r.name)
		return !had
	})
}

// allBlobs copies packs and index segments. Where a prune has moved chunks of the
// source meanwhile, allBlobs lists the source again and copies the new packs too.
func (c *copier) allBlobs(ctx context.Context) error {
	for range copyRounds {
		if err := c.blobs(ctx); err != nil {
			return err
		}
		now, err := c.src.listSmall(ctx, &movedKind, "")
		if err != nil {
			return fmt.Errorf("copy: source: %w", err)
		}
		if !hasNew(now, c.moved) {
			return nil
		}
		if err := c.listBlobs(ctx); err != nil {
			return fmt.Errorf("copy: source: %w", err)
		}
		if c.to.packs, err = c.dst.packRefs(ctx); err != nil {
			return fmt.Errorf("copy: destination: %w", err)
		}
	}
	return fmt.Errorf("copy: source: %w", errCompacted)
}

// needed sets the packs and the relocations of the source to those of some packs, which manifests
// name.
func (c *copier) needed(ctx context.Context, packs []PackRef) error {
	var all []PackRef
	of := map[PackID]bool{}
	for _, p := range packs {
		var err error
		if all, err = c.movedTo(ctx, all, p, 0); err != nil {
			return err
		}
	}
	for _, p := range all {
		of[p.ID] = true
	}
	for id := range c.movedPacks {
		if !of[id] {
			continue
		}
		_, err := c.src.st.Stat(ctx, c.src.packKey(id))
		if errors.Is(err, obs.ErrNotFound) { // else its prune has not come to delete the pack
			all = slices.DeleteFunc(all, func(p PackRef) bool { return p.ID == id })
		} else if err != nil {
			return fmt.Errorf("look at pack %s: %w", id, err)
		}
	}
	c.from.moved = slices.DeleteFunc(slices.Clone(c.from.moved), func(r smallRef) bool {
		id, _ := packOfMoved(r.name)
		return !of[id]
	})
	c.from.packs = sortedRefs(all)
	return nil
}

// movedTo adds a pack and the packs into which its chunks were moved to all. It needs the key.
func (c *copier) movedTo(ctx context.Context, all []PackRef, p PackRef, moves int) ([]PackRef, error) {
	all = append(all, p)
	if moves == maxMoves || !c.movedPacks[p.ID] {
		return all, nil
	}
	relocations, err := c.src.relocationsOf(ctx, p.ID)
	if ofObject(err) {
		return all, nil // the relocation can't be copied, which is told, and the manifest stays behind
	} else if err != nil {
		return nil, err
	}
	for _, r := range relocations {
		for _, to := range r.Packs {
			if all, err = c.movedTo(ctx, all, to, moves+1); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// lacksPack tells why the destination gets neither a pack nor its chunks.
func (c *copier) lacksPack(ctx context.Context, p PackRef, moves int) error {
	ref, listed := findRef(c.from.packs, p.ID)
	switch {
	case c.failed[p.ID]:
		return fmt.Errorf("names pack %s, which could not be copied", p.ID)
	case listed && !c.gone[p.ID] && ref.Size != p.Size:
		return fmt.Errorf("names pack %s of %d bytes, which has %d bytes in the source", p.ID, p.Size, ref.Size)
	case listed && !c.gone[p.ID]:
		return nil
	}
	lacks := fmt.Errorf("names pack %s, which the source does not have", p.ID)
	if moves == maxMoves || !c.movedPacks[p.ID] {
		return lacks
	}
	relocations, err := c.src.relocationsOf(ctx, p.ID)
	if err != nil {
		return errors.Join(lacks, err)
	}
	for _, r := range relocations {
		if _, copied := findSmall(c.to.moved, r.name); !copied || r.Size != p.Size {
			continue
		}
		if !slices.ContainsFunc(r.Packs, func(to PackRef) bool { return c.lacksPack(ctx, to, moves+1) != nil }) {
			return nil
		}
	}
	return lacks
}

// prolongMoved makes the locks of the relocations in the destination
// as long as the locks of packs.
func (c *copier) prolongMoved(ctx context.Context) error {
	retain := c.dst.st.Capabilities().Retain
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, r := range c.from.moved {
		if _, copied := findSmall(c.to.moved, r.name); !copied {
			continue
		}
		g.Go(func() error {
			key := c.dst.movedPrefix() + r.name
			info, err := c.dst.st.Stat(gctx, key)
			if now := time.Now(); err == nil && info.RetainUntil.Before(now.Add(retain+lookMargin(retain))) {
				err = c.dst.st.Extend(gctx, key, now.Add(packRetention(retain)))
			}
			if err != nil && !errors.Is(err, obs.ErrNotFound) {
				return fmt.Errorf("prolong the lock of %s: %w", key, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// nameMovedAtDestination adds to the packs that manifests of the destination name the packs into
// which their chunks were moved.
func (c *copier) nameMovedAtDestination(ctx context.Context, named map[PackID]bool) error {
	to, err := c.dst.movedPacks(ctx)
	if err != nil {
		return fmt.Errorf("copy: destination: nothing is removed, since a relocation there does not tell its packs: %w", err)
	}
	queue := slices.Collect(maps.Keys(named))
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		for _, next := range slices.Concat(to[id]...) {
			if of, known := named[next]; !known || named[id] && !of {
				named[next] = named[id]
				queue = append(queue, next)
			}
		}
	}
	return nil
}
