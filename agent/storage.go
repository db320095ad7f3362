package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/snapshot"
)

// Bounds of what is asked of storage that may not answer: a suspended device, a network file system whose server is away.
const (
	checkTime    = 10 * time.Second // all views of a job
	leftoverTime = 10 * time.Second // one volume, at the start
)

// because adds to the error of a backup what is wrong with the snapshots that it read, where their provider can tell: the kernel says
// only that there was an input/output error.
func because(ctx context.Context, sources []job.Source, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	for _, s := range sources {
		provider, perr := snapshot.ByName(s.Ref.Provider)
		if perr != nil {
			continue // nothing of it was read then
		}
		checker, ok := provider.(snapshot.Checker)
		if !ok {
			continue
		}
		cerr := checker.Check(ctx, snapshot.Ref(s.Ref))
		if errors.Is(cerr, snapshot.ErrGone) || errors.Is(cerr, snapshot.ErrOverflow) || errors.Is(cerr, snapshot.ErrNoRoom) {
			err = fmt.Errorf("volume %q: %w; so: %w", s.Volume, cerr, err)
		}
	}
	return err
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
