package backup

import (
	"bytes"
	"context"
	"errors"
	"io"

	"holdfast/internal/backup/known"
	"holdfast/internal/vault"
)

// A database is stored in frames (vault/FORMAT.md, "Databases"): large frames compress better, and
// small frames make a changed page cost less. So the first backup stores whole frames. When pages
// of a frame change, the changed pieces are stored as chunks, and the extents of the other pieces
// go on naming the frame. A frame whose pieces would lie in too many chunks is stored anew.

const (
	frameSize = 128 << 10
	// frameChunks is how many extents a frame of a file may have: a restore fetches
	// each of them, and a pack that one of them lies in can't be collected.
	frameChunks = 12
	// formerLimit is how much one Run reads from the vault, bytes of content, to find out which
	// pieces of databases changed whose sums are not known: its instance may be held meanwhile.
	formerLimit = 64 << 20
)

// frameOf is the size of a database's frames, bytes, or 0 for any other content. A
// SQLite database is rewritten in place, page by page: a cut by content that moves
// is of no use there. A file that would have too many frames has larger ones. (The
// header of the format: https://www.sqlite.org/fileformat.html, section 1.3.)
func frameOf(f io.ReaderAt, size int64, most int) (int, error) {
	const header, frames = "SQLite format 3\x00", wholeExtents / 2
	begin := make([]byte, len(header))
	if _, err := f.ReadAt(begin, 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if !bytes.Equal(begin, []byte(header)) {
		return 0, nil
	}
	grid := frameSize
	for grid < most && size/int64(grid) > frames {
		grid *= 2
	}
	return min(grid, most), nil
}

// piece is one piece of a frame that is being stored.
type piece struct {
	from, to int // in the frame
	kept     vault.Extent
	known    bool // kept is where the vault has it
}

// pieces splits the bytes p of a file, which lie at off, and sums them up.
func (w *worker) pieces(p []byte, off int64) (pieces []piece, sums []vault.PieceSum) {
	for at := 0; at < len(p); {
		end := min(len(p), at+int(vault.PieceSize-(off+int64(at))%vault.PieceSize))
		pieces = append(pieces, piece{from: at, to: end})
		sums = append(sums, vault.Sum(w.namer.Name(p[at:end])))
		at = end
	}
	return pieces, sums
}

// frame stores the frame p of a file, which lies at off, but for
// the pieces that the vault has from the last backup.
func (w *worker) frame(ctx context.Context, f *known.Frames, p []byte, off int64) (known.Stretch, error) {
	pieces, sums := w.pieces(p, off)
	name := w.namer.Name(p)
	inOne := func(loc vault.Loc) known.Stretch {
		return known.Stretch{Extents: []vault.Extent{{Off: off, Chunk: loc, Len: uint32(len(p))}}, Sums: sums}
	}
	if loc, ok := w.p.w.Known(name); ok {
		return inOne(loc), nil
	}
	w.look(ctx, f, p, off, pieces, sums)
	runs, changed := joined(pieces)
	if changed*2 > len(p) || len(runs) > frameChunks {
		st, err := w.storeNamed(name, p)
		return inOne(st.Loc), err
	}
	out := known.Stretch{Sums: sums}
	for _, r := range runs {
		if !r.known {
			st, err := w.store(p[r.from:r.to])
			if err != nil {
				return known.Stretch{}, err
			}
			r.kept = vault.Extent{Off: off + int64(r.from), Chunk: st.Loc, Len: uint32(r.to - r.from)}
		}
		out.Extents = append(out.Extents, r.kept)
	}
	return out, nil
}

// look finds the pieces of the last backup by their sums. Where no sums are
// known, as after a restore, it reads the pieces from the vault and compares.
func (w *worker) look(ctx context.Context, f *known.Frames, p []byte, off int64, pieces []piece, sums []vault.PieceSum) {
	var last vault.Loc
	var content []byte // of the chunk last; nil when it can't be had
	for i := range pieces {
		q := &pieces[i]
		x, sum, ok := f.Find(off+int64(q.from), q.to-q.from)
		if !ok {
			continue
		}
		q.kept = x
		if sum.Known() {
			q.known = sum == sums[i]
			continue
		}
		if x.Chunk != last {
			last, content = x.Chunk, w.p.formerContent(ctx, x.Chunk)
		}
		q.known = uint64(x.In)+uint64(x.Len) <= uint64(len(content)) && bytes.Equal(content[x.In:x.In+x.Len], p[q.from:q.to])
	}
}

// formerContent reads a chunk of the last backup, up to a limit for all of a Run. Nil says that
// the chunk can't be had, which costs some bytes in the vault. A store that can't be read is not
// asked again: its instance may be held while each call is repeated for as long as calls are.
func (p *pipeline) formerContent(ctx context.Context, loc vault.Loc) []byte {
	if p.former.Add(int64(loc.Raw)) > formerLimit {
		return nil
	}
	content, err := p.o.Vault.ReadChunk(ctx, vault.Content, loc)
	if err != nil {
		if !errors.Is(err, vault.ErrCorrupt) {
			p.former.Store(formerLimit)
		}
		return nil
	}
	return content
}

// joined joins neighbours to runs that become one extent each.
// changed is how many bytes are not known.
func joined(pieces []piece) (runs []piece, changed int) {
	for _, q := range pieces {
		if !q.known {
			changed += q.to - q.from
		}
		if n := len(runs); n > 0 && runs[n-1].known == q.known {
			last := &runs[n-1]
			if !q.known || last.kept.Chunk == q.kept.Chunk && last.kept.In+last.kept.Len == q.kept.In {
				last.to = q.to
				last.kept.Len += q.kept.Len
				continue
			}
		}
		runs = append(runs, q)
	}
	return runs, changed
}

// storeFrames stores the frames of buf from from on that end
// at ends; buf lies at off in the file. Idle workers help.
func (w *worker) storeFrames(ctx context.Context, f *known.Frames, buf []byte, off int64, from int, ends []int) (known.Stretch, error) {
	done := make([]known.Stretch, len(ends))
	errs := make([]error, len(ends))
	w.each(buf, from, ends, nil, func(w *worker, i int, p []byte, at int) {
		done[i], errs[i] = w.frame(ctx, f, p, off+int64(at))
	})
	var stored known.Stretch
	for _, d := range done {
		stored.Extents = append(stored.Extents, d.Extents...)
		stored.Sums = append(stored.Sums, d.Sums...)
	}
	return stored, errors.Join(errs...)
}
