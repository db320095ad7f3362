package backup

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// A large file that changed in part keeps the extents that lie whole outside of the changed
// ranges. The content between them is read and cut, from the border of a chunk before the
// change to a place where a cut falls on a border of a chunk behind the change. Cuts follow
// from the content of a chunk alone, so that place comes soon, mostly at the first border.

// resyncStep is how much is read at a time to find the next cut,
// bytes: less than for a file that is read in any case.
const resyncStep = 8 << 10

// errEnds says that a file ended before its size.
var errEnds = errors.New("it ended before its size")

// patching is the work on one file that changed in part.
type patching struct {
	c    *content
	cuts cuts
	old  *known.Frames // of a database
	// the content outside of the changed ranges: whole extents, of a database whole pieces
	kept  known.Stretch
	areas []tree.Range // to be read at the least, ascending, apart
}

// patchFile gives s the extents of the file c, of which it reads only what may have changed.
func (w *worker) patchFile(ctx context.Context, c *content, path string, former *known.File, s *sender) error {
	grid, err := frameOf(c, c.size, w.p.cutter.Params().Max)
	if err != nil {
		return err
	}
	p := &patching{c: c, cuts: cuts{w.p.cutter, grid}}
	if grid > 0 {
		p.planFrames(former, w.p.history.Without)
	} else {
		p.plan(former, w.p.history.Without)
	}
	pos, kept := int64(0), p.kept
	take := func(until int64) error {
		for len(kept.Extents) > 0 && kept.Extents[0].Off < until {
			var one known.Stretch
			one, kept = kept.First(1)
			x := one.Extents[0]
			if x.Off < pos {
				continue // it was read on the way to a border
			}
			w.p.counts.known.Add(uint64(x.Len))
			if w.p.picks() {
				if err := w.check(ctx, c, path, x); err != nil {
					return err
				}
			}
			if err := s.add(x, one.Sums); err != nil {
				return err
			}
		}
		return nil
	}
	for _, a := range p.areas {
		if a.Off+a.Len <= pos {
			continue
		}
		from := max(a.Off, pos)
		if err := take(from); err != nil {
			return err
		}
		pos, err = w.recut(ctx, p, from, a.Off+a.Len, s)
		if errors.Is(err, errEnds) {
			return nil // c knows where
		} else if err != nil {
			return err
		}
	}
	return take(c.size)
}

// changed sets areas to the ranges that may differ.
func (p *patching) changed(former *known.File) {
	for _, r := range former.Ranges {
		if end := min(r.End(), p.c.size); end > r.Offset {
			p.areas = append(p.areas, tree.Range{Off: r.Offset, Len: end - r.Offset})
		}
	}
}

// plan divides the file into ranges that are kept and ranges that are read.
func (p *patching) plan(former *known.File, without map[vault.PackID]bool) {
	p.changed(former)
	ranges := p.areas
	for _, x := range former.Extents {
		end := x.Off + int64(x.Len)
		for len(ranges) > 0 && ranges[0].Off+ranges[0].Len <= x.Off {
			ranges = ranges[1:]
		}
		// A chunk that the change follows at once may have ended where the data did.
		changed := len(ranges) > 0 && (ranges[0].Off < end || ranges[0].Off == end)
		switch {
		case !changed && end <= p.c.size && !without[x.Chunk.Pack]:
			p.kept.Add(x, nil)
		case x.Off < p.c.size:
			p.areas = append(p.areas, tree.Range{Off: x.Off, Len: min(end, p.c.size) - x.Off})
		}
	}
	p.areas = apart(p.areas)
}

// apart sorts ranges and joins touching ranges.
func apart(ranges []tree.Range) []tree.Range {
	slices.SortFunc(ranges, func(a, b tree.Range) int { return cmp.Compare(a.Off, b.Off) })
	out := ranges[:0]
	for _, a := range ranges {
		if n := len(out); n > 0 && a.Off <= out[n-1].Off+out[n-1].Len {
			last := &out[n-1]
			last.Len = max(last.Len, a.Off+a.Len-last.Off)
			continue
		}
		out = append(out, a)
	}
	return out
}

// border tells whether kept extents can be taken from
// at on: no kept extent has bytes on both sides of at.
func (p *patching) border(at int64) bool {
	kept := p.kept.Extents
	i, found := slices.BinarySearchFunc(kept, at, func(x vault.Extent, at int64) int { return cmp.Compare(x.Off, at) })
	return found || i == 0 || kept[i-1].Off+int64(kept[i-1].Len) <= at
}

// recut reads, cuts and stores the content from at to
// until, and on to the next border, whose place it returns.
func (w *worker) recut(ctx context.Context, p *patching, at, until int64, s *sender) (int64, error) {
	for at < p.c.size {
		data := p.c.next(at)
		if data.Len == 0 {
			return p.c.size, nil
		}
		if stop := max(at, until); stop <= data.Off && p.border(stop) {
			return stop, nil
		}
		var err error
		if at, err = w.recutData(ctx, p, data, until, s); err != nil {
			return 0, err
		}
		if at >= until && p.border(at) {
			return at, nil
		}
	}
	return at, nil
}

// recutData does so for a range of data, up to its end at the most.
func (w *worker) recutData(ctx context.Context, p *patching, data tree.Range, until int64, s *sender) (int64, error) {
	size, most := w.p.sectionSize(), w.p.cutter.Params().Max
	if n := size + most; cap(w.buf) < n {
		w.buf = make([]byte, 0, n)
	}
	at, end, carried := data.Off, data.Off+data.Len, 0
	if p.cuts.grid > 0 && until > at { // the kept extents begin there
		end = min(end, until)
	}
	for {
		began := time.Now()
		sec := &section{cuts: p.cuts, src: p.c, at: at, left: end - at, buf: w.buf[: carried : size+most], step: resyncStep}
		if err := sec.read(int(max(int64(carried), min(until-at, int64(size))))); err != nil {
			return 0, err
		}
		from, done := 0, false
		for from < size && !done {
			cut, err := sec.end(from)
			if err != nil {
				return 0, err
			}
			if cut == from {
				return 0, errEnds
			}
			sec.ends = append(sec.ends, cut)
			from = cut
			next := at + int64(from)
			done = next >= end || next >= until && p.border(next)
		}
		w.p.counts.read.Add(uint64(len(sec.buf) - carried))
		if err := w.storeCuts(ctx, p, sec, s); err != nil {
			return 0, err
		}
		at += int64(from)
		if done {
			return at, nil
		}
		carried = copy(w.buf[:cap(w.buf)], sec.buf[from:])
		if err := w.p.rest(ctx, began); err != nil {
			return 0, err
		}
	}
}

// storeCuts stores the content of a section up to the last of its ends.
func (w *worker) storeCuts(ctx context.Context, p *patching, sec *section, s *sender) error {
	if p.cuts.grid > 0 {
		done, err := w.storeFrames(ctx, p.old, sec.buf, sec.at, 0, sec.ends)
		if err != nil {
			return err
		}
		return s.addAll(done)
	}
	stored, err := w.storeAll(sec.buf, 0, sec.ends)
	if err != nil {
		return err
	}
	begin := 0
	for i, cut := range sec.ends {
		if err := s.add(vault.Extent{Off: sec.at + int64(begin), Chunk: stored[i].Loc, Len: uint32(cut - begin)}, nil); err != nil {
			return err
		}
		begin = cut
	}
	return nil
}
