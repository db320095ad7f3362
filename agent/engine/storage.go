package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/contain"
	"holdfast/internal/snapshot"
)

// Bounds of requests to storage that may not answer: a
// suspended device, a network file system whose server is away.
const (
	checkTime    = 10 * time.Second // one view of a job
	leftoverTime = 10 * time.Second // one volume, at the start
	presentTime  = 2 * time.Minute  // all that a stored backup rests on, in the store
)

// viewEvery is how often the views of a backup are looked at while it reads them:
// a thin pool can fill up within a minute, and the look costs a run of lvm.
const viewEvery = 5 * time.Second

// checkView tells why the view of a source can't be trusted any more,
// or has to go; nil while all is well, and where nobody can tell.
func checkView(ctx context.Context, s job.Source) error {
	provider, err := snapshot.ByName(s.Ref.Provider)
	if err != nil {
		return nil //nolint:nilerror // nothing of it was read then
	}
	checker, ok := provider.(snapshot.Checker)
	if !ok {
		return nil
	}
	err = checker.Check(ctx, snapshot.Ref(s.Ref))
	if errors.Is(err, snapshot.ErrGone) || errors.Is(err, snapshot.ErrOverflow) || errors.Is(err, snapshot.ErrNoRoom) {
		return fmt.Errorf("volume %q: %w", s.Volume, err)
	}
	return nil
}

// views are the views that a backup reads. Its methods are for the goroutine of the backup.
type views struct {
	sources []job.Source
	every   time.Duration
	check   func(context.Context, job.Source) error

	stored   atomic.Bool // all that was read is in the store: too little room does not spoil it
	accepted bool        // they were looked at when all was read; nothing rests on them any more
	working  context.Context
	end      context.CancelCauseFunc // of working
	stop     func()                  // ends the watch
}

// reading runs read, which reads the views, and ends it when a view goes bad. The error
// then tells the fault of the view: the kernel says only that there was an input/output
// error, and its cache may say nothing. So read has to call begin when it begins, also
// once more, and sound when it has read all, before anything rests on that.
func (v *views) reading(ctx context.Context, read func(context.Context) error) error {
	v.working, v.end = context.WithCancelCause(ctx)
	defer v.end(nil)
	v.stop = func() {}
	err := read(v.working)
	v.stop()
	if err == nil || v.accepted || ctx.Err() != nil {
		return err
	}
	bad := context.Cause(v.working)
	if bad == nil {
		bad = v.look(ctx)
	}
	switch {
	case bad == nil:
		return err
	case errors.Is(err, bad):
		return bad
	}
	return fmt.Errorf("%w; so: %w", bad, err)
}

// begin watches the views from here on.
func (v *views) begin() {
	v.stop()
	v.accepted = false
	v.stored.Store(false)
	ctx, cancel := context.WithCancel(v.working)
	var watch sync.WaitGroup
	v.stop = func() { cancel(); watch.Wait() }
	watch.Go(func() {
		if bad := contain.Call(func() error { return v.watch(ctx) }); bad != nil {
			v.end(bad)
		}
	})
}

// watch looks until a view is bad, and tells why; nil when ctx ends.
func (v *views) watch(ctx context.Context) error {
	tick := time.NewTicker(v.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if bad := v.look(ctx); bad != nil {
				return bad
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sound ends the watch, and tells whether the content that was read can be relied on.
func (v *views) sound(ctx context.Context) error {
	v.stop()
	if bad := v.look(ctx); bad != nil {
		v.end(bad)
	}
	err := context.Cause(v.working)
	v.accepted = err == nil
	return err
}

// look tells of the first view that is bad; nil when ctx ended, and
// where the storage does not answer.
func (v *views) look(ctx context.Context) error {
	for _, s := range v.sources {
		err := v.lookAt(ctx, s)
		if err != nil && !(v.stored.Load() && errors.Is(err, snapshot.ErrNoRoom)) {
			return err
		}
	}
	return nil
}

func (v *views) lookAt(ctx context.Context, s job.Source) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	err := v.check(ctx, s)
	if ctx.Err() != nil {
		return nil
	}
	return err
}
