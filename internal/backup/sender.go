package backup

import (
	"context"
	"hash/maphash"

	"holdfast/internal/backup/known"
	"holdfast/internal/vault"
)

// sender hands a large file's extents to the recipe.
type sender struct {
	ctx       context.Context // of the one call that made it
	u         *unit
	todo      known.Stretch // not sent yet
	size      int64         // of the content to read
	last      int64         // where the extents end that were sent
	streaming bool          // some are on their way: the file can't be read again
}

func (s *sender) add(x vault.Extent, sums []vault.PieceSum) error {
	s.todo.Add(x, sums)
	if n := len(s.todo.Extents); n < wholeExtents && (!s.streaming || n < partExtents) {
		return nil
	}
	if !s.streaming {
		s.streaming = true
		s.u.entries[0].Size = s.size
	}
	return s.flush()
}

// addAll adds a stretch.
func (s *sender) addAll(rest known.Stretch) error {
	for len(rest.Extents) > 0 {
		var head known.Stretch
		head, rest = rest.First(1)
		if err := s.add(head.Extents[0], head.Sums); err != nil {
			return err
		}
	}
	return nil
}

// end is where the last extent ends, in the file.
func (s *sender) end() int64 {
	if n := len(s.todo.Extents); n > 0 {
		return s.todo.Extents[n-1].Off + int64(s.todo.Extents[n-1].Len)
	}
	return s.last
}

// sum tells the extents from others.
func (s *sender) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(contentSeed)
	for _, x := range s.todo.Extents {
		maphash.WriteComparable(&h, x)
	}
	return h.Sum64()
}

func (s *sender) flush() error {
	s.last = s.end()
	for len(s.todo.Extents) > 0 {
		var part known.Stretch
		part, s.todo = s.todo.First(min(len(s.todo.Extents), partExtents))
		select {
		case s.u.storedParts <- part:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return nil
}
