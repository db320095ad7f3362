package backup

import (
	"context"
	"time"
)

// work is one worker: the Run's own worker, which always has memory, or a lent worker,
// which has memory while there is work and no other Run waits for it. A worker without
// memory takes no part of another worker's work, since the other one would wait for it.
func (p *pipeline) work(ctx context.Context, own bool) error {
	if p.o.Precopy {
		inBackground()
	}
	w := newWorker(p)
	pool, units := p.o.Pool, p.toWorkers
	var toWaiting chan<- *workerMemory
	if own {
		w.own, w.workerMemory = true, &workerMemory{}
	} else {
		toWaiting = pool.toWaiting
		defer func() {
			if w.workerMemory != nil {
				pool.giveBack(w.workerMemory)
			}
		}()
	}
	ended := func() error {
		if context.Cause(ctx) == errEnded {
			return nil
		}
		return context.Cause(ctx)
	}
	for {
		var u *unit
		if w.workerMemory == nil {
			ok := true
			select {
			case u, ok = <-units:
			case <-p.taskWaits:
			case <-ctx.Done():
				return ended()
			}
			if !ok {
				units = nil // no more of those, but others may need help
				continue
			}
			var err error
			takers := p.toOtherWorker
			if u == nil {
				takers = nil
			}
			if w.workerMemory, err = borrow(ctx, pool, u, takers); err != nil {
				return ended()
			}
			if w.workerMemory == nil {
				continue // somebody else does it
			}
		} else {
			ok := true
			select {
			case u, ok = <-units:
			case u = <-p.toOtherWorker: // else a unit could wait for other backups while this Run's own worker is idle
			case f := <-p.tasks:
				f(w)
			case toWaiting <- w.workerMemory:
				w.workerMemory = nil
			case <-ctx.Done():
				return ended()
			}
			if !ok {
				units = nil
				continue
			}
		}
		if u == nil {
			continue
		}
		if err := p.do(ctx, w, u); err != nil {
			return err
		}
	}
}

// do is one unit.
func (p *pipeline) do(ctx context.Context, w *worker, u *unit) error {
	began := time.Now()
	if err := u.read(ctx, w); err != nil {
		return err
	}
	close(u.done)
	if u.large {
		return nil // it rested between its sections
	}
	return p.rest(ctx, began)
}

// handOver gives the worker's memory to somebody who waits for it, and tells whether there was one.
func (w *worker) handOver() bool {
	if w.own {
		return false
	}
	select {
	case w.p.o.Pool.toWaiting <- w.workerMemory:
		w.workerMemory = nil
		return true
	default:
		return false
	}
}
