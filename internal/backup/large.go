package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// largeFile reads one file and sends its extents.
func (w *worker) largeFile(ctx context.Context, u *unit) error {
	defer close(u.parts)
	f, fresh, err := w.p.open(u, 0)
	if f == nil || err != nil {
		return err
	}
	defer f.Close() // nothing was written
	e := u.entries[0]
	s := &sender{ctx: ctx, u: u}
	for r := w.p.reading(e, f); ; {
		s.todo = known.Stretch{Extents: s.todo.Extents[:0], Sums: s.todo.Sums[:0]}
		if s.size, err = r.measured(); err == nil {
			if c := r.begin(s.size); u.former != nil && !u.former.Compare && r.try == 0 && !fresh {
				err = w.patchFile(ctx, c, e.Path, u.former, s)
			} else {
				err = w.spread(ctx, c, u.former, s)
			}
		}
		if s.streaming {
			if err := w.endStream(r, s, err); err != nil {
				return err
			}
			return s.flush()
		}
		done := false
		if err == nil {
			done, err = r.settled(s.end(), s.sum)
		}
		if err != nil {
			return w.p.leaveOut(u, 0, err)
		}
		if done {
			return s.flush()
		}
	}
}

// endStream tells the fault of a file whose item the recipe already
// has, with the size that was known when its reading began: the file
// can neither be left out nor read again. err ended its reading.
func (w *worker) endStream(r *reading, s *sender, err error) error {
	at, length := s.end(), r.c.length()
	switch {
	case isFault(err):
		w.p.lost(r.was.Path, fmt.Sprintf("it could not be read from byte %d on (%v); a restore has zeros there", at, err))
	case err != nil:
		return err
	case length < s.size:
		w.p.lost(r.was.Path, fmt.Sprintf("it ended at byte %d of %d while it was read; a restore has zeros behind", length, s.size))
	default:
		same, err := r.unchanged()
		if err != nil && !isFault(err) {
			return err
		}
		if !same {
			w.p.lost(r.was.Path, "it changed while it was read; its content is of no single moment")
		}
		return nil
	}
	// Its inode may show no change ever after, and nothing in the
	// recipe tells that it has not all of the content.
	w.p.doubtful.Store(true)
	return nil
}

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
func (s *sender) addAll(all known.Stretch) error {
	for len(all.Extents) > 0 {
		var one known.Stretch
		one, all = all.First(1)
		if err := s.add(one.Extents[0], one.Sums); err != nil {
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
		case s.u.parts <- part:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return nil
}

// spread is one reading of a large file, or of an image, by any
// number of workers side by side, who take its sections in turn.
type spread struct {
	p    *pipeline
	wait sync.WaitGroup // for the workers that joined

	mu sync.Mutex
	// the next section, nil when there is none, and whether another follows at once
	next  func() (read reader, more bool, err error)
	taken int   // sections
	err   error // the first one; ends the reading

	out  sync.Mutex // held while the recipe takes extents
	s    *sender
	sent int                   // sections
	done map[int]known.Stretch // by section; sections that were done before an earlier section
}

// reader reads and stores a section and returns the
// stored stretch. It is called once, by any worker.
type reader func(*worker) (known.Stretch, error)

// fileReading says which sections a large file has.
type fileReading struct {
	p    *pipeline
	c    *content
	cuts cuts
	old  *known.Frames // of a database
	end  int64         // of the last range of data
	rest tree.Range    // the part that no worker took
	link chan int64    // will say where the first chunk in rest begins
}

// none is the place of a chunk that there is not.
const none = -1

// part is a section of a file, with its turn: where its first chunk
// begins comes from the section before and goes to the one behind. Every
// part that was taken passes something on, so nobody waits for ever.
type part struct {
	at   int64
	size int
	left int64 // up to the end of the range
	from chan int64
	next chan int64
}

// spread reads the file once and gives its extents to s in their order.
func (w *worker) spread(ctx context.Context, c *content, former *known.File, s *sender) error {
	grid, err := frameOf(c, c.size, w.p.cutter.Params().Max)
	if err != nil {
		return err
	}
	r := &fileReading{p: w.p, c: c, cuts: cuts{w.p.cutter, grid}}
	if former != nil && grid > 0 {
		r.old = known.NewFrames(former.Stretch, w.p.history.Without)
	}
	return w.readAll(ctx, func() (reader, bool, error) { return r.next(ctx) }, s)
}

// readAll reads all sections and gives their extents to s in their
// order. next is called by one goroutine at a time.
func (w *worker) readAll(ctx context.Context, next func() (reader, bool, error), s *sender) error {
	sp := &spread{p: w.p, next: next, s: s, done: map[int]known.Stretch{}}
	sp.work(ctx, w, false)
	sp.wait.Wait()
	return sp.err
}

// work takes sections until none are left, and asks idle workers to do the
// same. A helper leaves when another backup of the host waits for a worker.
func (f *spread) work(ctx context.Context, w *worker, helper bool) {
	for {
		if helper && w.handOver() {
			return
		}
		n, read, more := f.take(ctx)
		if read == nil {
			return
		}
		if more {
			f.invite(ctx)
		}
		began := time.Now()
		stored, err := read(w)
		if err == nil {
			err = f.deliver(n, stored)
		}
		if err == nil {
			err = f.p.rest(ctx, began)
		}
		if err != nil {
			f.fail(err)
		}
	}
}

// invite asks one worker that is idle, if any is.
func (f *spread) invite(ctx context.Context) {
	f.wait.Add(1)
	select {
	case f.p.help <- func(w *worker) { defer f.wait.Done(); f.work(ctx, w, true) }:
	default:
		f.wait.Done()
		select {
		case f.p.want <- struct{}{}: // for the next section
		default:
		}
	}
}

// take returns a section that nobody took, nil when there is none,
// and whether another follows at once.
func (f *spread) take(ctx context.Context) (n int, read reader, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && ctx.Err() != nil {
		f.err = context.Cause(ctx)
	}
	if f.err != nil {
		return 0, nil, false
	}
	if read, more, f.err = f.next(); f.err != nil || read == nil {
		return 0, nil, false
	}
	f.taken++
	return f.taken - 1, read, more
}

// next is the next section of the file.
func (r *fileReading) next(ctx context.Context) (reader, bool, error) {
	if r.rest.Len == 0 {
		// Not iter.Pull2 of all ranges: workers in the background are
		// bound to their threads, and only one of them could call that.
		data := r.c.next(r.end)
		if data.Len == 0 {
			return nil, false, nil
		}
		r.end = data.Off + data.Len
		r.rest, r.link = data, make(chan int64, 1)
		r.link <- data.Off
	}
	p := &part{at: r.rest.Off, left: r.rest.Len, from: r.link, next: make(chan int64, 1)}
	p.size = int(min(r.rest.Len, int64(r.p.sectionSize())))
	r.rest.Off, r.rest.Len, r.link = r.rest.Off+int64(p.size), r.rest.Len-int64(p.size), p.next
	return func(w *worker) (known.Stretch, error) { return r.one(ctx, w, p) }, r.rest.Len > 0, nil
}

func (f *spread) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// one reads, cuts and stores a section.
func (r *fileReading) one(ctx context.Context, w *worker, p *part) (known.Stretch, error) {
	most := r.p.cutter.Params().Max
	if n := r.p.sectionSize() + most; cap(w.buf) < n {
		w.buf = make([]byte, 0, n)
	}
	s := &section{cuts: r.cuts, src: r.c, at: p.at, size: p.size, left: p.left, buf: w.buf[: 0 : p.size+most]}
	err := s.cutAhead()
	from, next := <-p.from, int64(none)
	if err == nil && from != none {
		next, err = s.cutFrom(from)
	}
	p.next <- next
	if err != nil {
		return known.Stretch{}, err
	}
	r.p.counts.read.Add(uint64(min(len(s.buf), s.size)))
	if from == none {
		return known.Stretch{}, nil
	}
	if r.cuts.grid > 0 {
		return w.storeFrames(ctx, r.old, s.buf, s.at, int(from-s.at), s.ends)
	}
	at := int(from - s.at)
	stored, err := w.storeAll(s.buf, at, s.ends)
	if err != nil {
		return known.Stretch{}, err
	}
	extents := make([]vault.Extent, len(s.ends))
	for i, end := range s.ends {
		extents[i] = vault.Extent{Off: s.at + int64(at), Chunk: stored[i].Loc, Len: uint32(end - at)}
		at = end
	}
	return known.Stretch{Extents: extents}, nil
}

// deliver gives the extents of section n to the recipe,
// once the recipe has the extents of the sections before.
func (f *spread) deliver(n int, stored known.Stretch) error {
	f.out.Lock()
	defer f.out.Unlock()
	f.done[n] = stored
	for {
		stored, ok := f.done[f.sent]
		if !ok {
			return nil
		}
		delete(f.done, f.sent)
		f.sent++
		if err := f.s.addAll(stored); err != nil {
			return err
		}
	}
}

// storeAll stores the chunks of buf from from on that end at ends, and returns the place
// of each. Idle workers help. A chunk that equals the chunk before it is stored already.
func (w *worker) storeAll(buf []byte, from int, ends []int) ([]vault.Stored, error) {
	stored := make([]vault.Stored, len(ends))
	errs := make([]error, len(ends))
	same := make([]bool, len(ends))
	var last []byte
	at := from
	for i, end := range ends {
		same[i] = bytes.Equal(buf[at:end], last)
		last, at = buf[at:end], end
	}
	w.each(buf, from, ends, same, func(w *worker, i int, p []byte, _ int) {
		stored[i], errs[i] = w.store(p)
	})
	for i := range stored {
		if same[i] {
			stored[i] = stored[i-1]
		}
	}
	return stored, errors.Join(errs...)
}
