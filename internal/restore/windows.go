package restore

import (
	"context"
	"errors"
	"slices"

	"holdfast/internal/contain"
)

// windowsAhead is how many windows are fetched at a time. The content of a window of small files
// takes one or two requests, so that a store with latency stands idle unless the requests of
// several windows are on their way.
const windowsAhead = 4

// endsAtOnce is how many files of a window whose last item was seen are one job.
const endsAtOnce = 64

// fetching fetches the windows of one volume, in their order, with as many workers as
// Options.Workers, whichever windows their requests belong to.
type fetching struct {
	stopped <-chan struct{} // closed when a request fails, or the restore is interrupted
	order   contain.Group   // of the one goroutine that makes jobs of windows
	workers *contain.Group
	windows chan *window
	jobs    chan job
	room    chan struct{} // has an element for each window that is being fetched
}

// job is the work of one worker at a time for a window: a request, or the end of some files.
type job struct {
	win  *window
	get  *request
	ends []*file
}

// startFetching starts the workers. They stay until the last window, since a new goroutine for
// each request would have to grow its stack each time.
func (b *builder) startFetching(ctx context.Context) {
	f := &fetching{
		windows: make(chan *window, windowsAhead), jobs: make(chan job), room: make(chan struct{}, windowsAhead),
	}
	f.workers, ctx = contain.WithContext(ctx)
	f.stopped = ctx.Done()
	f.order.Go(func() error {
		defer close(f.jobs)
		for win := range f.windows {
			if !f.begin(win) {
				return nil // the workers have the error
			}
		}
		return nil
	})
	for range b.o.Workers {
		f.workers.Go(func() error {
			var mem scratch
			for j := range f.jobs {
				if err := b.work(ctx, &mem, j); err != nil {
					return err
				}
				f.finished(j.win)
			}
			return nil
		})
	}
	b.fetching = f
}

// begin hands the window to the workers, and tells whether they took all of it.
func (f *fetching) begin(win *window) bool {
	var jobs []job
	for _, q := range requests(win) {
		jobs = append(jobs, job{win: win, get: &q})
	}
	for ends := range slices.Chunk(win.ends, endsAtOnce) {
		jobs = append(jobs, job{win: win, ends: ends})
	}
	win.left.Store(int64(len(jobs) + 1))
	for _, j := range jobs {
		select {
		case f.jobs <- j:
		case <-f.stopped:
			return false
		}
	}
	f.finished(win)
	return true
}

func (b *builder) work(ctx context.Context, mem *scratch, j job) error {
	if j.get != nil {
		return b.get(ctx, mem, j.win, *j.get)
	}
	for _, to := range j.ends {
		if err := b.done(to); err != nil {
			return err
		}
	}
	return nil
}

// finished notes that one thing of the window is done; after the last, another window has room. A
// job that fails does not count, so that its window, with files that are open, is kept.
func (f *fetching) finished(win *window) {
	if win.left.Add(-1) == 0 {
		<-f.room
	}
}

// fetchWindow begins to fetch the window's content, once few enough windows are being fetched.
func (b *builder) fetchWindow(ctx context.Context) error {
	if b.fetching == nil {
		b.startFetching(ctx)
	}
	f, win := b.fetching, b.win
	b.win = newWindow()
	b.keep(win)
	select {
	case <-f.stopped:
		if err := b.wait(); err != nil {
			return err
		}
		return context.Cause(ctx)
	case f.room <- struct{}{}:
		f.windows <- win
		return nil
	}
}

// keep remembers a window until it is fetched, for closeAll.
func (b *builder) keep(win *window) {
	win.left.Store(1)
	ahead := b.ahead[:0]
	for _, w := range b.ahead {
		if w.left.Load() > 0 {
			ahead = append(ahead, w)
		}
	}
	clear(b.ahead[len(ahead):])
	b.ahead = append(ahead, win)
}

// wait waits until all windows that were begun are fetched, and returns the first error.
func (b *builder) wait() error {
	f := b.fetching
	if f == nil {
		return nil
	}
	b.fetching = nil
	close(f.windows)
	return errors.Join(f.order.Wait(), f.workers.Wait())
}
