package restore

import (
	"context"
	"errors"

	"holdfast/internal/contain"
)

// windowsAhead is how many windows are fetched at a time. The content of a window of small files
// takes one or two requests, so that a store with latency stands idle unless the requests of
// several windows are on their way.
const windowsAhead = 4

// fetching fetches the windows of one volume, in their order, with as many requests at a time
// as Options.Workers, whichever windows those belong to.
type fetching struct {
	stopped  <-chan struct{} // closed when a request fails, or the restore is interrupted
	order    contain.Group   // of the one goroutine that begins requests
	requests *contain.Group
	windows  chan *window
	room     chan struct{} // has an element for each window that is being fetched
}

func (b *builder) startFetching(ctx context.Context) {
	f := &fetching{windows: make(chan *window, windowsAhead), room: make(chan struct{}, windowsAhead)}
	f.requests, ctx = contain.WithContext(ctx)
	f.stopped = ctx.Done()
	f.requests.SetLimit(b.o.Workers)
	f.order.Go(func() error {
		for win := range f.windows {
			all := requests(win)
			win.left.Store(int64(len(all) + len(win.ends) + 1))
			for _, q := range all {
				f.requests.Go(func() error {
					defer f.finished(win)
					return b.get(ctx, win, q)
				})
			}
			for _, to := range win.ends {
				f.requests.Go(func() error {
					defer f.finished(win)
					return b.done(to)
				})
			}
			f.finished(win)
		}
		return nil
	})
	b.fetching = f
}

// finished notes that one thing of the window is done; after the last, another window has room.
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
	return errors.Join(f.order.Wait(), f.requests.Wait())
}
