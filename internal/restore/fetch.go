package restore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// request is a run of neighbouring chunks of one pack.
type request struct {
	locs []vault.Loc
	size uint32
}

// requests groups the window's chunks into requests, in the order of packs and offsets.
func requests(win *window) []request {
	locs := make([]vault.Loc, 0, len(win.places))
	for l := range win.places {
		locs = append(locs, l)
	}
	slices.SortFunc(locs, func(a, b vault.Loc) int {
		return cmp.Or(bytes.Compare(a.Pack[:], b.Pack[:]), cmp.Compare(a.Off, b.Off))
	})
	var out []request
	for len(locs) > 0 {
		first := locs[0]
		n, end := 1, first.Off+first.Len
		for n < len(locs) && locs[n].Pack == first.Pack && locs[n].Off >= end && locs[n].Off-end <= runGap &&
			locs[n].Off+locs[n].Len-first.Off <= runBytes {
			end = locs[n].Off + locs[n].Len
			n++
		}
		out = append(out, request{locs: locs[:n], size: end - first.Off})
		locs = locs[n:]
	}
	return out
}

// Bounds of the memory of one request, bytes. Neighbouring chunks of a file
// open to neighbouring bytes of one buffer, so one call writes them all.
const (
	openedBytes = 512 << 10 // after so many opened bytes they are written
	writeBytes  = 256 << 10 // of one call: the kernel finds memory for larger ones less easily
)

// scratch is the memory of a worker, which it keeps from its first request to its last: the runtime
// would clear fresh memory for each request, and the kernel would map it.
type scratch struct {
	run   []byte // the sealed bytes of a request
	batch batch
}

// sealedOf returns room for the sealed bytes of a request.
func (s *scratch) sealedOf(q request) []byte {
	if s.run == nil {
		// Memory that no request needs stays untouched, so the kernel does not give it.
		s.run = make([]byte, runBytes)
		s.batch.opened = make([]byte, 0, openedBytes+seal.Room)
	}
	if int(q.size) > len(s.run) { // one chunk, longer than a run
		s.run = make([]byte, q.size)
	}
	return s.run[:q.size]
}

// piece is opened content on its way to a file.
type piece struct {
	to      *file
	off     int64 // in the file
	from, n int   // the bytes of batch.opened
}

// batch collects opened content until it is written. It is for one goroutine.
type batch struct {
	opened []byte // the content of the pieces
	pieces []piece
}

// get fetches a request, opens each chunk and writes it to every place it belongs.
func (b *builder) get(ctx context.Context, mem *scratch, win *window, q request) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	buf, out := mem.sealedOf(q), &mem.batch
	defer out.empty()
	first := q.locs[0]
	if err := b.o.Vault.ReadRun(ctx, first.Pack, buf, first.Off); err != nil {
		return err
	}
	b.counts.fetched.Add(uint64(q.size))
	opener := b.o.Vault.Opener(first.Pack)
	for _, l := range q.locs {
		room := int(l.Raw) + seal.Room
		if len(out.opened)+room > cap(out.opened) {
			if err := b.write(out); err != nil {
				return err
			}
			if room > cap(out.opened) { // one chunk, longer than a batch
				out.opened = make([]byte, 0, room)
			}
		}
		at := len(out.opened)
		plain, err := opener.Open(vault.Content, l, buf[l.Off-first.Off:][:l.Len], out.opened[at:at])
		if err != nil {
			if plain, err = b.o.Vault.Again(ctx, vault.Content, l, err); err != nil {
				return err
			}
			plain = append(out.opened[at:at], plain...)
		}
		out.opened = out.opened[:at+len(plain)]
		for _, p := range win.places[l] {
			out.pieces = append(out.pieces, piece{to: p.to, off: p.off, from: at + int(p.in), n: int(p.n)})
		}
	}
	return b.write(out)
}

// write writes the pieces of a batch, neighbours in one call, and empties the batch.
func (b *builder) write(out *batch) error {
	for todo := out.pieces; len(todo) > 0; {
		n, first := 1, todo[0]
		for n < len(todo) && first.leadsTo(todo[n]) && first.n+todo[n].n <= writeBytes {
			first.n += todo[n].n
			n++
		}
		if err := b.watch.take(uint64(first.n), 0); err != nil {
			return err
		}
		if _, err := first.to.writer().WriteAt(out.opened[first.from:first.from+first.n], first.off); err != nil {
			if pe, ok := errors.AsType[*os.PathError](err); ok {
				err = pe.Err // its name is not quoted
			}
			return fmt.Errorf("write %q: %w", first.to.entry.Path, err)
		}
		b.counts.bytes.Add(uint64(first.n))
		for range n {
			if err := b.done(first.to); err != nil {
				return err
			}
		}
		todo = todo[n:]
	}
	out.empty()
	return nil
}

// leadsTo tells whether the bytes of q are those behind the bytes
// of p, in the file and in the batch.
func (p piece) leadsTo(q piece) bool {
	return q.to == p.to && q.off == p.off+int64(p.n) && q.from == p.from+p.n
}

// empty takes all content out of the batch, and keeps no file alive.
func (out *batch) empty() {
	clear(out.pieces)
	out.opened, out.pieces = out.opened[:0], out.pieces[:0]
}

// done ends one claim on f; the last sets its metadata and closes it.
func (b *builder) done(f *file) error {
	if f.left.Add(-1) > 0 || f.image != nil {
		return nil
	}
	return b.target.FinishFile(f.entry, f.f)
}
