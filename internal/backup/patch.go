package backup

import (
	"context"
	"errors"
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
			var head known.Stretch
			head, kept = kept.First(1)
			x := head.Extents[0]
			if x.Off < pos {
				continue // it was read on the way to a border
			}
			w.p.counts.known.Add(uint64(x.Len))
			if w.p.picks() {
				if err := w.check(ctx, c, path, x); err != nil {
					return err
				}
			}
			if err := s.add(x, head.Sums); err != nil {
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
