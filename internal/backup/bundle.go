package backup

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"slices"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

func newBundle() *unit {
	u := &unit{done: make(chan struct{})}
	u.read = func(ctx context.Context, w *worker) error { return w.bundle(ctx, u) }
	return u
}

// postpone leaves entry i, a file, to whoever writes the recipe.
func (u *unit) postpone(i int) { u.late = append(u.late, i) }

// bundle reads the small files of u, cuts their content as one, and sets u.extents.
func (w *worker) bundle(ctx context.Context, u *unit) error {
	for _, i := range u.check {
		if err := w.checkFile(ctx, u.entries[i], u.known[i]); err != nil {
			return err
		}
	}
	empty := w.p.root.HasFlags() || !w.p.root.HonestSizes() // files of size 0 are opened too
	if u.size == 0 && u.known == nil && !empty {
		return nil
	}
	w.buf, w.spans = w.buf[:0], w.spans[:0]
	u.extents = make([][]vault.Extent, len(u.entries))
	copy(u.extents, u.known)
	for i, e := range u.entries {
		if i < len(u.known) && u.known[i] != nil || e.Kind != tree.File || e.HasLinkTo || e.Size == 0 && !empty {
			continue
		}
		if err := w.smallFile(u, i); err != nil {
			return err
		}
		if len(w.buf) >= 2*bundleMax { // files grew since the walk
			if err := w.cutBundle(u); err != nil {
				return err
			}
		}
	}
	return w.cutBundle(u)
}

// cutBundle cuts and stores the content of buf, and adds to u.extents.
func (w *worker) cutBundle(u *unit) error {
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
	w.buf, w.spans = w.buf[:0], w.spans[:0]
	return nil
}

// smallFile appends the content of entry i to buf and its spans to spans, and
// brings the entry up to date if the file changed after the walk. A file that
// is too large for a bundle by now is left to the one who writes the recipe.
func (w *worker) smallFile(u *unit, i int) error {
	f, _, err := w.p.open(u, i)
	if f == nil || err != nil {
		return err
	}
	defer f.Close() // nothing was written
	at, spans := len(w.buf), len(w.spans)
	sum := func() uint64 { return maphash.Bytes(contentSeed, w.buf[at:]) }
	for r := w.p.reading(u.entries[i], f); ; {
		w.buf, w.spans = w.buf[:at], w.spans[:spans]
		done, err := false, w.readSmall(i, r.begin(r.e.Size))
		if err == nil {
			last := int64(0)
			if n := len(w.spans); n > spans {
				last = w.spans[n-1].off + int64(w.spans[n-1].n)
			}
			done, err = r.settled(last, sum)
		}
		if err == nil {
			if done {
				return nil
			}
			continue
		}
		w.buf, w.spans = w.buf[:at], w.spans[:spans]
		if errors.Is(err, errLarge) {
			u.postpone(i)
			return nil
		}
		return w.p.leaveOut(u, i, err)
	}
}

// errLarge says that a file is too large for a bundle.
var errLarge = errors.New("it is too large for a bundle")

// readSmall appends the content of c to buf and its spans, as spans
// of entry i, to spans. It is errLarge for more than bundleMax.
func (w *worker) readSmall(i int, c *content) error {
	if c.size > bundleMax {
		return errLarge
	}
	first := c.next(0)
	// without a hole, or without any content as far as is known
	if !w.p.root.HonestSizes() && (c.holesToo || first.Len == c.size) {
		return w.readToEnd(i, c)
	}
	for r := first; r.Len > 0; r = c.next(r.Off + r.Len) {
		from := len(w.buf)
		w.buf = slices.Grow(w.buf, int(r.Len))[:from+int(r.Len)]
		n, err := c.ReadAt(w.buf[from:], r.Off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		w.buf = w.buf[:from+n]
		if n > 0 {
			w.spans = append(w.spans, span{entry: i, off: r.Off, at: from, n: n})
		}
	}
	return nil
}

// readToEnd reads c to where a read meets its end, whatever its size is.
func (w *worker) readToEnd(i int, c *content) error {
	// of a read: some files of the kernel give their content only to the first one
	const least = 32 << 10
	from := len(w.buf)
	for {
		read := len(w.buf) - from
		if read > bundleMax {
			return errLarge
		}
		n := max(int(c.size)+1-read, least)
		w.buf = slices.Grow(w.buf, n)
		got, err := c.ReadAt(w.buf[from+read:from+read+n], int64(read))
		w.buf = w.buf[:from+read+got]
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if n := len(w.buf) - from; n > 0 {
		w.spans = append(w.spans, span{entry: i, at: from, n: n})
	}
	return nil
}
