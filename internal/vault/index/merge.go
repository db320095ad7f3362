package index

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"holdfast/internal/vault/format"
)

// Every backup that stored anything adds a segment, and every lookup asks all
// segments, so many small ones are merged into one: eight of a class of sizes, which
// grow eightfold, so that a row is written at most five times. No lock is needed. The
// merged segment is stored, and says which it replaces, before those are deleted; two
// hosts that merge the same ones leave each row twice, until their two are merged.
const (
	mergeAt      = 8
	mergeSources = 64 // at most in one merge
	classes      = 5
)

// segmentClass is the class of a segment's size: below 1024 rows,
// 8192, 65536, 524288, and larger segments, which are never merged.
func segmentClass(rows int) int {
	class := 0
	for ; rows >= 1<<10 && class < classes-1; class++ {
		rows /= 8
	}
	return class
}

// segmentTally counts segments by class.
type segmentTally [classes]int

func (t *segmentTally) count(rows int) { t[segmentClass(rows)]++ }

// due says whether there is anything to merge.
func (t *segmentTally) due() bool {
	return slices.ContainsFunc(t[:classes-1], func(n int) bool { return n >= mergeAt })
}

// mergeGroups returns the groups of segments to merge, one of a class at most.
func mergeGroups(open map[SegmentID]*segment) (groups [][]*segment) {
	var byClass [classes][]*segment
	for _, s := range open {
		byClass[segmentClass(s.rows)] = append(byClass[segmentClass(s.rows)], s)
	}
	for _, all := range byClass[:classes-1] {
		if len(all) < mergeAt {
			continue
		}
		slices.SortFunc(all, func(a, b *segment) int { return cmp.Or(cmp.Compare(a.rows, b.rows), bytes.Compare(a.id[:], b.id[:])) })
		n, rows := 0, 0
		for n < min(len(all), mergeSources) && rows+all[n].rows <= maxIndexRows {
			rows += all[n].rows
			n++
		}
		// two at least: no segment of these classes fills half of one
		groups = append(groups, all[:n])
	}
	return groups
}

// Merge does the merges that are due, leaves out the rows of the packs without,
// of which lost are gone from the store, and deletes the replaced segments.
func (in Place) Merge(ctx context.Context, dir string, without map[format.PackID]bool, lost []format.PackID, tell func(error)) error {
	set, err := in.OpenSet(ctx, dir, tell)
	if err != nil {
		return err
	}
	defer set.Close()
	var left []SegmentID // by a merge that ended before it deleted them
	for id := range set.replaced {
		if _, ok := set.listed[id]; ok {
			left = append(left, id)
		}
	}
	single := maps.Clone(set.open) // the segments that are in no merge
	for _, group := range mergeGroups(set.open) {
		group = slices.DeleteFunc(group, func(s *segment) bool {
			err := s.check()
			if err != nil { // Check finds a stored one
				tell(in.damage(s, err))
			}
			return err != nil
		})
		if len(group) < 2 {
			continue
		}
		if err := in.mergeGroup(ctx, set, group, left, without); err != nil {
			return err
		}
		for _, s := range group {
			delete(single, s.id)
		}
	}
	gone := make(map[format.PackID]bool, len(lost))
	for _, p := range lost {
		gone[p] = true
	}
	for _, s := range single {
		if s.lists(gone) {
			if err := in.mergeGroup(ctx, set, []*segment{s}, nil, without); err != nil {
				return err
			}
		}
	}
	return in.deleteSegments(ctx, left)
}

// mergeGroup replaces the segments of a group by one. left, which others replace and which are
// still there, is said to be replaced by the new one too: what replaces it may be in the group.
func (in Place) mergeGroup(ctx context.Context, set *Set, group []*segment, left []SegmentID, without map[format.PackID]bool) error {
	replaces := slices.Clone(left)
	for _, s := range group {
		replaces = append(replaces, s.id)
	}
	if len(replaces) > maxReplaced {
		return nil // a store that deletes nothing: more merging would not make it better
	}
	f, err := set.dir.create()
	if err != nil {
		return fmt.Errorf("merge index segments: %w", err)
	}
	defer f.Close() // the mapping stays
	merged, err := in.mergeInto(f, group, replaces, without)
	if err != nil {
		set.dir.discard(f.Name())
		return fmt.Errorf("merge index segments: %w", err)
	}
	if merged == nil {
		set.dir.discard(f.Name())
		return in.deleteSegments(ctx, replaces)
	}
	defer merged.close()
	now, err := in.List(ctx)
	if err == nil {
		for _, s := range group {
			if _, ok := now[s.id]; !ok { // another host merges these, too
				set.dir.discard(f.Name())
				return nil
			}
		}
		err = in.storeSegment(ctx, merged)
	}
	if err != nil {
		set.dir.discard(f.Name())
		return fmt.Errorf("merge index segments: %w", err)
	}
	set.dir.keep(f.Name(), merged.id)
	return in.deleteSegments(ctx, replaces)
}

// mergeInto writes the rows of the group as one segment into f and maps it; nil
// when no row is left. Of two places of a chunk it takes the same one as a lookup.
func (in Place) mergeInto(f *os.File, group []*segment, replaces []SegmentID, without map[format.PackID]bool) (*segment, error) {
	limit := 0
	var packs []format.PackRef
	nums := map[format.PackID]uint32{}
	cursors := make([]*cursor, 0, len(group))
	for _, s := range group {
		limit += s.rows
		for i := range s.packs {
			p := s.packRef(i)
			if _, ok := nums[p.ID]; !ok && !without[p.ID] {
				nums[p.ID] = uint32(len(packs))
				packs = append(packs, p)
			}
		}
		c := s.cursor()
		if c.next() {
			cursors = append(cursors, c)
		} else if c.err != nil {
			return nil, fmt.Errorf("segment %s: %w", s.id, c.err)
		}
	}
	w := fileWriter(f)
	out := in.newSegmentWriter(w, limit)
	for len(cursors) > 0 {
		first := cursors[0].name
		for _, c := range cursors[1:] {
			if bytes.Compare(c.name[:], first[:]) < 0 {
				first = c.name
			}
		}
		var best format.Loc
		found := false
		for _, c := range cursors {
			if c.name != first {
				continue
			}
			if !without[c.loc.Pack] && (!found || compareLoc(c.loc, best) < 0) {
				best, found = c.loc, true
			}
			if !c.next() && c.err != nil {
				return nil, fmt.Errorf("segment %s: %w", c.s.id, c.err)
			}
		}
		if found {
			if err := out.add(first, nums[best.Pack], best.Off, best.Len, best.Raw); err != nil {
				return nil, err
			}
		}
		cursors = slices.DeleteFunc(cursors, func(c *cursor) bool { return c.done })
	}
	if out.rows == 0 {
		return nil, nil
	}
	if _, err := out.finish(packs, replaces); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return mapSegment(out.id, out.aead, f)
}

// deleteSegments deletes segments that others replace.
func (in Place) deleteSegments(ctx context.Context, ids []SegmentID) error {
	if len(ids) == 0 {
		return nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = in.Key(id)
	}
	if err := in.Store.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("delete index segments that others replace: %w", err)
	}
	return nil
}
