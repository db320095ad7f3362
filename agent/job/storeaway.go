package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// An instance stands still only while the store answers. Before each hold the store is asked, and
// while it does not answer the instance runs. An instance that stands still for an upload is let go
// when the store has not answered for Options.StorePatience, where nothing is lost by that: see
// mayWait.

// errWaitForStore says that the instance is to be let go until the store answers.
var errWaitForStore = errors.New("the instance is let go until the store answers")

// Bounds of the waits for the store, each with its reason.
const (
	// reachTime is the time of one request: a store that
	// needs longer for a few bytes can't take an upload.
	reachTime = 30 * time.Second
	// silentEvery is how often a job looks whether the store answers.
	silentEvery = time.Second
	// firstStoreWait and lastStoreWait are how long an instance runs at least after it was let go
	// for the store: a store that answers small requests and no large ones must not make it stand
	// still most of the time.
	firstStoreWait = time.Minute
	lastStoreWait  = 15 * time.Minute
)

// mayWait tells whether nothing is lost when the instance is let go and held once
// more. A backup on which an instance can be released has to be made of its last
// state, so a job whose instance ran begins anew, whichever snapshots stand; its
// stored packs are found again. A stop is another matter: each stop ends the programs
// of the instance. And where nobody waits for the instance, it may stay as it is.
func mayWait(j *model.Job) bool { return j.StandsStill() && j.Mode != model.ModeStop }

// restForStore lets an instance run for a while that was let go for the store.
func restForStore(ctx context.Context, j *model.Job) error {
	if j.StoreWaits == 0 {
		return nil
	}
	return sleep(ctx, min(firstStoreWait<<min(j.StoreWaits-1, 10), lastStoreWait))
}

// reach asks the store once.
func (w *worker) reach(ctx context.Context, j *model.Job) error {
	if w.m.parts.Store == nil {
		return nil
	}
	try, cancel := context.WithTimeoutCause(ctx, reachTime, fmt.Errorf("%w within %s", ErrStoreAway, reachTime))
	defer cancel()
	err := w.m.parts.Store.Reach(try, j.Tenant)
	if err != nil && ctx.Err() == nil && try.Err() != nil && !errors.Is(err, ErrStoreAway) {
		return fmt.Errorf("%w: %w", context.Cause(try), err)
	}
	return err
}

// whileStoreAnswers makes a context that also ends, with a cause that wraps ErrStoreAway, when the
// store has been silent for too long and the job may wait for it. stop is due; it returns when
// nothing looks any more.
func (w *worker) whileStoreAnswers(ctx context.Context, j *model.Job) (_ context.Context, stop func()) {
	patience := w.m.opts.StorePatience
	if w.m.parts.Store == nil || patience <= 0 || !mayWait(j) {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		err := contain.Call(func() error {
			for sleep(ctx, silentEvery) == nil {
				if silent := w.m.parts.Store.Silent(); silent >= patience {
					return fmt.Errorf("%w: none of its answers came for %s", ErrStoreAway, silent.Round(time.Second))
				}
			}
			return nil
		})
		if err != nil {
			end(err)
		}
	})
	return ctx, func() {
		end(nil)
		watch.Wait()
	}
}

// waitForStore lets the instance go until the store answers again.
func (w *worker) waitForStore(j *model.Job, err error) error {
	w.m.parts.Observer.Lacked(j.Instance, j.ID, "keep the instance held; it runs again, and is held anew when the store answers", err)
	return w.write(j, model.Suspending, journal.Change{Edit: func(j *model.Job) { j.StoreWaits, j.ForStore = j.StoreWaits+1, true }})
}
