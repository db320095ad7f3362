package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// worker reads, cuts, names, compresses and stores. It belongs to one goroutine.
type worker struct {
	p     *pipeline
	namer *chunk.Namer
	comp  *seal.Compressor
	buf   []byte // content of a bundle, or a block of a large file
	spans []span
}

// span is a run of a file's bytes in the content of its bundle.
type span struct {
	entry int
	off   int64 // in the file
	at    int   // in buf
	n     int
}

func newWorker(p *pipeline) (*worker, error) {
	comp, err := seal.NewCompressor(p.o.Level, p.o.Vault.Params().Chunk.Max)
	if err != nil {
		return nil, err
	}
	return &worker{p: p, namer: p.o.Vault.Namer(), comp: comp}, nil
}

// rereads is how often a file that changed while it was read is read again.
const rereads = 3

// bundle reads the small files of u, cuts their content as one, and sets u.extents.
func (w *worker) bundle(u *unit) error {
	flags := w.p.root.HasFlags()
	if u.size == 0 && u.known == nil && !flags {
		return nil
	}
	w.buf, w.spans = w.buf[:0], w.spans[:0]
	u.extents = make([][]vault.Extent, len(u.entries))
	copy(u.extents, u.known)
	for i, e := range u.entries {
		if i < len(u.known) && u.known[i] != nil || e.Kind != tree.File || e.HasLinkTo || e.Size == 0 && !flags {
			continue
		}
		if err := w.smallFile(i, e); err != nil {
			return err
		}
	}
	w.p.counts.read.Add(uint64(len(w.buf)))
	s := 0
	for at := 0; at < len(w.buf); {
		n := w.p.cutter.Cut(w.buf[at:])
		st, err := w.store(w.buf[at : at+n])
		if err != nil {
			return err
		}
		// The spans that this chunk covers, in whole or in part.
		for ; s < len(w.spans) && w.spans[s].at < at+n; s++ {
			sp := w.spans[s]
			from, to := max(sp.at, at), min(sp.at+sp.n, at+n)
			u.extents[sp.entry] = append(u.extents[sp.entry], vault.Extent{
				Off: sp.off + int64(from-sp.at), Chunk: st.Loc, In: uint32(from - at), Len: uint32(to - from),
			})
			if sp.at+sp.n > at+n {
				break // goes on in the next chunk
			}
		}
		at += n
	}
	return nil
}

// smallFile appends the content of e to buf and its spans to spans, and brings e's size and times up to
// date if it changed after the walk.
func (w *worker) smallFile(i int, e *tree.Entry) error {
	f, err := w.p.root.Open(e)
	if err != nil {
		return w.p.unreadable(e, err)
	}
	defer f.Close() // nothing was written
	if err := w.p.root.ReadFlags(e, f); err != nil {
		return err
	}
	at, spans := len(w.buf), len(w.spans)
	for try := 0; ; try++ {
		w.buf, w.spans = w.buf[:at], w.spans[:spans]
		size := e.Size
		if size > 2*bundleMax {
			// It grew past what a bundle may hold: the rest is left out, and told below.
			size, try = 2*bundleMax, rereads
			e.Size = size
		}
		for r, err := range tree.DataRanges(f, size) {
			if err != nil {
				return err
			}
			if err := w.smallRange(i, e, f, r); err != nil {
				return err
			}
		}
		same, err := w.p.refresh(e, f)
		if err != nil {
			return err
		}
		if same {
			return nil
		}
		if try == rereads {
			// What was read may reach beyond the end that the file has now, and the item must hold it.
			e.Size = size
			w.p.warnings.Warn(tree.Warning{Path: e.Path, What: "changed each time while it was read; its content is of no single moment, or cut off", Lost: true})
			return nil
		}
	}
}

// smallRange appends one data range of f to buf and its span to spans.
func (w *worker) smallRange(i int, e *tree.Entry, f *os.File, r tree.Range) error {
	from := len(w.buf)
	w.buf = append(w.buf, make([]byte, r.Len)...)
	n, err := f.ReadAt(w.buf[from:], r.Off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %q: %w", e.Path, err)
	}
	w.buf = w.buf[:from+n]
	if n > 0 {
		w.spans = append(w.spans, span{entry: i, off: r.Off, at: from, n: n})
	}
	return nil
}

// refresh says whether f, now that it was read, is still what e says, and else brings e up to date.
func (p *pipeline) refresh(e *tree.Entry, f *os.File) (same bool, err error) {
	if same, err = p.root.Unchanged(e, f); same || err != nil {
		return same, err
	}
	st, err := tree.Restat(f)
	if err != nil {
		return false, err
	}
	e.Size, e.Mtime, e.Ctime = st.Size, st.Mtime, st.Ctime
	return false, p.root.ReadFlags(e, f)
}

// unreadable decides what a file that can't be opened means: one that is gone or was replaced since the
// walk is a warning, since nothing of that moment is left to read; all else fails the backup.
func (p *pipeline) unreadable(e *tree.Entry, err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, tree.ErrChanged) {
		p.warnings.Warn(tree.Warning{Path: e.Path, What: "was removed or replaced while the backup ran; stored without content", Lost: true})
		e.Size = 0
		return nil
	}
	return err
}

// store names a chunk and sees to it that the vault has it.
func (w *worker) store(p []byte) (vault.Stored, error) {
	name := w.namer.Name(p)
	if loc, ok := w.p.w.Known(name); ok {
		return vault.Stored{Loc: loc}, nil
	}
	m, payload := w.comp.Compress(p)
	st, err := w.p.w.Add(name, m, payload, len(p))
	if err == nil && st.New {
		w.p.counts.fresh.Add(uint64(len(p)))
	}
	return st, err
}

// largeFile reads one file and sends its extents.
func (w *worker) largeFile(ctx context.Context, u *unit) error {
	defer close(u.parts)
	e := u.entries[0]
	f, err := w.p.root.Open(e)
	if err != nil {
		return w.p.unreadable(e, err)
	}
	defer f.Close() // nothing was written
	if err := w.p.root.ReadFlags(e, f); err != nil {
		return err
	}
	s := &sender{ctx: ctx, u: u}
	for try := 0; ; try++ {
		s.extents = s.extents[:0]
		size := e.Size
		for r, err := range tree.DataRanges(f, size) {
			if err != nil {
				return err
			}
			if err := w.largeRange(ctx, f, e, r, s); err != nil {
				return err
			}
		}
		if s.streaming {
			// The recipe has the item by now, with the size that the walk saw: e is no longer ours.
			same, err := w.p.root.Unchanged(e, f)
			if err != nil {
				return err
			}
			if !same {
				w.p.warnings.Warn(tree.Warning{Path: e.Path, What: "changed while it was read; its content is of no single moment", Lost: true})
			}
			break
		}
		same, err := w.p.refresh(e, f)
		if err != nil {
			return err
		}
		if same {
			break
		}
		if try == rereads {
			e.Size = size // what was read may reach beyond the end that the file has now
			w.p.warnings.Warn(tree.Warning{Path: e.Path, What: "changed while it was read; its content is of no single moment", Lost: true})
			break
		}
	}
	return s.flush()
}

// sender hands a large file's extents to the recipe.
type sender struct {
	ctx       context.Context // of the one call that made it
	u         *unit
	extents   []vault.Extent
	streaming bool // some are on their way: the file can't be read again
	grid      int  // size of chunks at fixed places, bytes; 0 cuts where the content says
}

// databaseGrid is the size of a database's chunks, or 0 for any other content. A SQLite database is rewritten
// in place, page by page: what content moves is of no use there, and a changed page costs the chunk around it. Two
// pages of the usual 4 KiB to a chunk, more where the file would have too many. (The header of the format:
// https://www.sqlite.org/fileformat.html, section 1.3.)
func databaseGrid(begin []byte, size int64, most int) int {
	const header, chunks = "SQLite format 3\x00", wholeExtents / 2
	if !bytes.HasPrefix(begin, []byte(header)) {
		return 0
	}
	grid := 8 << 10
	for grid < most && size/int64(grid) > chunks {
		grid *= 2
	}
	return min(grid, most)
}

func (s *sender) add(x vault.Extent) error {
	s.extents = append(s.extents, x)
	if len(s.extents) < wholeExtents && (!s.streaming || len(s.extents) < partExtents) {
		return nil
	}
	s.streaming = true
	return s.flush()
}

func (s *sender) flush() error {
	for len(s.extents) > 0 {
		n := min(len(s.extents), partExtents)
		select {
		case s.u.parts <- s.extents[:n:n]:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		s.extents = s.extents[n:]
	}
	return nil
}

// largeRange reads one data range of a large file a block at a time. The chunks of a block are worked
// on side by side by whoever is idle, and by this worker.
func (w *worker) largeRange(ctx context.Context, f *os.File, e *tree.Entry, r tree.Range, s *sender) error {
	params := w.p.cutter.Params()
	if cap(w.buf) < block {
		w.buf = make([]byte, 0, block)
	}
	have, at := 0, r.Off // buf[:have] holds the file's bytes from at on
	for eof := false; ; {
		buf := w.buf[:block]
		for !eof && have < block {
			want := min(int64(block-have), r.Off+r.Len-at-int64(have))
			n := 0
			if want > 0 {
				var err error
				if n, err = f.ReadAt(buf[have:have+int(want)], at+int64(have)); err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("read %q: %w", e.Path, err)
				}
			}
			have += n
			w.p.counts.read.Add(uint64(n))
			eof = want <= 0 || n == 0 // a file that became shorter ends where it ends
		}
		if have == 0 {
			return nil
		}
		if at == 0 {
			s.grid = databaseGrid(buf[:have], e.Size, params.Max)
		}
		var cuts []int
		end := 0
		for end < have && (eof || have-end >= params.Max) {
			if s.grid > 0 {
				end = min(have, end+s.grid-int((at+int64(end))%int64(s.grid)))
			} else {
				end += w.p.cutter.Cut(buf[end:have])
			}
			cuts = append(cuts, end)
		}
		stored, err := w.storeAll(buf, cuts)
		if err != nil {
			return err
		}
		from := 0
		for i, c := range cuts {
			if err := s.add(vault.Extent{Off: at + int64(from), Chunk: stored[i].Loc, Len: uint32(c - from)}); err != nil {
				return err
			}
			from = c
		}
		have = copy(buf, buf[end:have])
		at += int64(end)
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
}

// storeAll stores the chunks of buf that end at cuts, in the order of cuts.
func (w *worker) storeAll(buf []byte, cuts []int) ([]vault.Stored, error) {
	stored := make([]vault.Stored, len(cuts))
	errs := make([]error, len(cuts))
	var wg sync.WaitGroup
	from := 0
	for i, c := range cuts {
		p := buf[from:c]
		from = c
		wg.Add(1)
		one := func(w *worker) {
			defer wg.Done()
			stored[i], errs[i] = w.store(p)
		}
		select {
		case w.p.help <- one:
		default: // nobody is idle
			one(w)
		}
	}
	wg.Wait()
	return stored, errors.Join(errs...)
}
