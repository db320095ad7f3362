package backup

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/backup/known"
)

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
	case f.p.tasks <- func(w *worker) { defer f.wait.Done(); f.work(ctx, w, true) }:
	default:
		f.wait.Done()
		select {
		case f.p.taskWaits <- struct{}{}: // for the next section
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

func (f *spread) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
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
