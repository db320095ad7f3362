package backup

import (
	"cmp"
	"slices"

	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// patching is the work on one file that changed in part.
type patching struct {
	c    *content
	cuts cuts
	old  *known.Frames // of a database
	// the content outside of the changed ranges: whole extents, of a database whole pieces
	kept  known.Stretch
	areas []tree.Range // to be read at the least, ascending, apart
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

// planFrames is plan for a database. It keeps the pieces that lie outside of what
// changed, and reads a frame in whole that would come to lie in too many chunks.
func (p *patching) planFrames(former *known.File, without map[vault.PackID]bool) {
	p.old = known.NewFrames(former.Stretch, without)
	p.changed(former)
	for i := range p.areas {
		p.areas[i] = p.roundOut(p.areas[i], vault.PieceSize)
	}
	for _, x := range former.Extents {
		end := x.Off + int64(x.Len)
		switch {
		case x.Off >= p.c.size:
		case without[x.Chunk.Pack]:
			p.areas = append(p.areas, p.roundOut(tree.Range{Off: x.Off, Len: int64(x.Len)}, vault.PieceSize))
		case end > p.c.size: // the file became shorter, and so did its last piece
			p.areas = append(p.areas, p.roundOut(tree.Range{Off: p.c.size - 1, Len: 1}, vault.PieceSize))
		}
	}
	p.areas = apart(p.areas)
	p.areas = apart(append(p.areas, p.scattered(former.Extents)...))
	sums := former.Sums
	if len(sums) != vault.Pieces(former.Extents) {
		sums = make([]vault.PieceSum, vault.Pieces(former.Extents)) // none is known
	}
	areas := p.areas
	for _, x := range former.Extents {
		n := x.Pieces()
		for len(areas) > 0 && areas[0].Off+areas[0].Len <= x.Off {
			areas = areas[1:]
		}
		p.keepOutside(x, sums[:n], areas)
		sums = sums[n:]
	}
}

// roundOut makes a range as large as the pieces, or frames, of that size that it touches.
func (p *patching) roundOut(r tree.Range, size int64) tree.Range {
	from, to := r.Off/size*size, min((r.Off+r.Len+size-1)/size*size, p.c.size)
	return tree.Range{Off: from, Len: to - from}
}

// keepOutside keeps the parts of an extent outside of areas, which are ascending.
func (p *patching) keepOutside(x vault.Extent, sums []vault.PieceSum, areas []tree.Range) {
	end := min(x.Off+int64(x.Len), p.c.size)
	keep := func(from, to int64) {
		if to > from {
			first := x.Off / vault.PieceSize
			p.kept.Add(known.Clip(x, from, to), sums[from/vault.PieceSize-first:(to-1)/vault.PieceSize-first+1])
		}
	}
	at := x.Off
	for _, a := range areas {
		if a.Off >= end {
			break
		}
		keep(at, a.Off)
		at = max(at, a.Off+a.Len)
	}
	keep(at, end)
}

// scattered returns the frames of which more than half changed, or which would come to have more
// extents than a frame may: an area splits the extent that it lies in, so it adds two at the most.
func (p *patching) scattered(extents []vault.Extent) (frames []tree.Range) {
	next := int64(0) // where the first frame begins that was not looked at
	for i, a := range p.areas {
		for at := max(a.Off, next); at < a.Off+a.Len; at = next {
			frame := p.roundOut(tree.Range{Off: at, Len: 1}, int64(p.cuts.grid))
			next = frame.Off + frame.Len
			n, changed := 0, int64(0)
			for _, b := range p.areas[i:] {
				if b.Off >= next {
					break
				}
				n, changed = n+2, changed+overlap(b, frame)
			}
			for len(extents) > 0 && extents[0].Off+int64(extents[0].Len) <= frame.Off {
				extents = extents[1:]
			}
			for _, x := range extents {
				if x.Off >= next {
					break
				}
				n++
			}
			if n > frameChunks || changed*2 > frame.Len {
				frames = append(frames, frame)
			}
		}
	}
	return frames
}

// overlap is how many bytes two ranges share.
func overlap(a, b tree.Range) int64 {
	return max(min(a.Off+a.Len, b.Off+b.Len)-max(a.Off, b.Off), 0)
}
