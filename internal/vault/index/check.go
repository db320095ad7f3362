package index

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/vault/format"
)

// Check reads all segments that the store has, and opens every block.
// The set that it returns has the sound segments open and names the damaged segments.
// The error says why the segments can't be looked at.
func (in Place) Check(ctx context.Context) (*Set, error) {
	// Without a folder, so that the segments of the store are read.
	set, err := in.OpenSet(ctx, "", func(error) {})
	if err != nil {
		return nil, err
	}
	for id, s := range set.open {
		if err := s.check(); err != nil {
			set.damaged[id] = &format.CorruptError{Object: in.Key(id), Reason: err.Error()}
			s.close()
			delete(set.open, id)
		}
	}
	return set, nil
}

// Damaged returns why segments are damaged, by id.
func (set *Set) Damaged() map[SegmentID]error { return set.damaged }

// EachPack calls each with the packs that the open segments list; a pack may come twice.
func (set *Set) EachPack(each func(format.PackRef)) {
	for _, s := range set.open {
		for i := range s.packs {
			each(s.packRef(i))
		}
	}
}

// Index returns an Index of the open segments, which leaves out the packs without. Close of one of
// the two closes the segments of both.
func (set *Set) Index(without map[format.PackID]bool) *Index {
	x := &Index{in: set.in, dir: set.dir, without: without, tell: func(error) {}}
	view := &indexView{active: newRowTable()}
	for _, s := range set.open {
		view.segs = append(view.segs, s)
	}
	x.view.Store(view)
	return x
}

// ReplaceUnsound deletes the damaged and the replaced segments, and writes the segments that list
// the packs gone again without the rows of those packs. It returns how many segments were damaged,
// or were written again. It is for a set that Check returned.
func (set *Set) ReplaceUnsound(ctx context.Context, gone map[format.PackID]bool) (replaced int, err error) {
	unsound := slices.Collect(maps.Keys(set.damaged))
	replaced = len(unsound)
	for id := range set.replaced {
		if _, ok := set.listed[id]; ok {
			unsound = append(unsound, id)
		}
	}
	for _, s := range set.open {
		if !s.lists(gone) {
			continue
		}
		if err := set.in.mergeGroup(ctx, set, []*segment{s}, nil, gone); err != nil {
			return replaced, err
		}
		replaced++
	}
	return replaced, set.in.deleteSegments(ctx, unsound)
}

// Drop writes the segments anew of which more than a fifth of the packs are going, without the rows
// of those packs. It adds the going packs of all other segments, whose rows stay, to left.
func (set *Set) Drop(ctx context.Context, going func(format.PackID) bool, left map[format.PackID]bool) error {
	for _, s := range set.open {
		without := map[format.PackID]bool{}
		for i := range s.packs {
			if id := s.pack(i); going(id) {
				without[id] = true
			}
		}
		if 5*len(without) > s.packs {
			if err := set.in.mergeGroup(ctx, set, []*segment{s}, nil, without); err != nil {
				return err
			}
			continue
		}
		for id := range without {
			left[id] = true
		}
	}
	return nil
}

// CheckObject checks the bytes of a stored segment: its trailer, and with open everything that the
// key opens too. The error is a *format.CorruptError, or format.ErrNewer.
func (in Place) CheckObject(id SegmentID, body []byte, open bool) error {
	bad := func(err error) error {
		if format.IsNewer(err) {
			return fmt.Errorf("object %s: %w", in.Key(id), err)
		}
		return &format.CorruptError{Object: in.Key(id), Reason: err.Error()}
	}
	if len(body) < indexTrailer {
		return bad(errTooShort)
	}
	if _, err := parseTrailer(body[len(body)-indexTrailer:], int64(len(body))); err != nil {
		return bad(err)
	}
	if !open {
		return nil
	}
	s, err := newSegment(id, in.AEAD(id), body)
	if err != nil {
		return bad(err)
	}
	defer s.close()
	if err := s.check(); err != nil {
		return bad(err)
	}
	return nil
}
