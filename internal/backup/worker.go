package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// worker reads, cuts, names, compresses and stores. It belongs to one goroutine. Without memory it can do nothing.
type worker struct {
	*scratch
	p     *pipeline
	namer *chunk.Namer
	own   bool // of its Run: its memory is never given to another
}

// span is a run of a file's bytes in the content of its bundle.
type span struct {
	entry int
	off   int64 // in the file
	at    int   // in buf
	n     int
}

func newWorker(p *pipeline) *worker { return &worker{p: p, namer: p.o.Vault.Namer()} }

// handOver gives the worker's memory to somebody who waits for it, and tells whether there was one.
func (w *worker) handOver() bool {
	if w.own {
		return false
	}
	select {
	case w.p.o.On.hand <- w.scratch:
		w.scratch = nil
		return true
	default:
		return false
	}
}

// rereads is how often a file that changed while it was read is read again.
const rereads = 3

// bundle reads the small files of u, cuts their content as one, and sets u.extents.
func (w *worker) bundle(ctx context.Context, u *unit) error {
	for _, i := range u.check {
		if err := w.checkFile(ctx, u.entries[i], u.known[i]); err != nil {
			return err
		}
	}
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
	m, payload, err := w.compress(p)
	if err != nil {
		return vault.Stored{}, err
	}
	st, err := w.p.w.Add(name, m, payload, len(p))
	if err == nil && st.New {
		w.p.counts.fresh.Add(uint64(len(p)))
	}
	return st, err
}

// compress compresses a chunk at the level that is right now. The payload is valid until the next call.
func (w *worker) compress(p []byte) (seal.Method, []byte, error) {
	g := w.p.governor
	packs, waited, held := w.p.w.Waits()
	g.observe(time.Since(w.p.started), packs, waited, held)
	level := seal.Level(g.level.Load())
	if w.comps[level] == nil {
		var err error
		if w.comps[level], err = seal.NewCompressor(level, w.p.cutter.Params().Max); err != nil {
			return 0, nil, err
		}
	}
	g.bytes[level].Add(uint64(len(p)))
	m, payload := w.comps[level].Compress(p)
	return m, payload, nil
}
