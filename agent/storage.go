package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/snapshot"
)

// Bounds of what is asked of storage that may not answer: a suspended device, a network file system whose server is away.
const (
	checkTime    = 10 * time.Second // all views of a job
	leftoverTime = 10 * time.Second // one volume, at the start
)

// viewEvery is how often the views of a backup are looked at while it reads them: a thin pool can fill up within a minute, and the
// look costs a run of lvm.
const viewEvery = 5 * time.Second

// checkView tells why the view of a source can't be trusted any more, or has to go; nil while all is well, and where nobody can tell.
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

// reading runs read, which reads the views of the sources, and ends it when one of them goes bad. The error then says what became of the
// view: the kernel says only that there was an input/output error, and its cache may say nothing. So read has to call sound when it has read
// all, before anything rests on that. From then on the views are not looked at any more. That there is too little room left does not spoil
// what was read to its end.
func reading(ctx context.Context, sources []job.Source, every time.Duration, check func(context.Context, job.Source) error,
	read func(ctx context.Context, sound func(context.Context) error) error,
) error {
	look := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		defer cancel()
		for _, s := range sources {
			if err := check(ctx, s); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	}
	working, end := context.WithCancelCause(ctx)
	defer end(nil)
	var watch sync.WaitGroup
	over := make(chan struct{})
	stop := sync.OnceFunc(func() { close(over); watch.Wait() })
	defer stop()
	watch.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if bad := look(working); bad != nil {
					end(bad)
					return
				}
			case <-over:
				return
			case <-working.Done():
				return
			}
		}
	})
	err := read(working, func(ctx context.Context) error {
		stop()
		if bad := look(ctx); bad != nil && !errors.Is(bad, snapshot.ErrNoRoom) {
			end(bad)
		}
		return context.Cause(working)
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	stop()
	bad := context.Cause(working)
	if bad == nil {
		bad = look(ctx)
	}
	switch {
	case bad == nil:
		return err
	case errors.Is(err, bad):
		return bad
	}
	return fmt.Errorf("%w; so: %w", bad, err)
}

// patiently is do, but for at most limit. What hangs in the kernel is left behind, with its goroutine, until the storage answers.
func patiently[T any](ctx context.Context, limit time.Duration, do func(context.Context) (T, error)) (T, error) {
	type answer struct {
		val T
		err error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the storage did not answer within %s", limit))
	defer cancel()
	done := make(chan answer, 1)
	go func() {
		val, err := do(ctx)
		done <- answer{val, err}
	}()
	select {
	case a := <-done:
		return a.val, a.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// leftoversOf lists the snapshots of this host in the place that the request names; none for a volume that is not there.
func leftoversOf(ctx context.Context, r snapshot.Request) ([]snapshot.Ref, error) {
	return patiently(ctx, leftoverTime, func(ctx context.Context) ([]snapshot.Ref, error) {
		if _, err := os.Stat(r.Volume); errors.Is(err, os.ErrNotExist) {
			return nil, nil // not restored to this host
		}
		return snapshot.Leftovers(ctx, r)
	})
}
