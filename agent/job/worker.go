package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// errLeave ends a worker with its job unfinished; the
// journal has everything that the next Run needs.
var errLeave = errors.New("left in the journal")

// worker takes one job from where the journal says it is to its end. It is one goroutine.
type worker struct {
	m       *Manager
	id      string
	signal  chan struct{} // 1 token: the journal's record was changed by someone else
	place   place
	ticket  *ticket
	hold    *ticket // the turn to hold the instance; nil before it is waited for
	resumed bool    // the job comes from an earlier life; its true state is not known yet
	checked func()  // call once the true state is known, or can't be
	// mayBeDown says that this life, or an earlier one as far as is
	// known, has powered the instance down.
	mayBeDown bool
	// begun says that a power-down of this life has failed in the
	// middle, down that the instance was seen to be down after one.
	begun, down bool
	panics      int // in this life
	// proved is when the last look began that found the backup in the store; zero: not in
	// this life. provePause is the last pause between looks that the store did not answer.
	proved     time.Time
	provePause time.Duration
	// tried says that the engine has worked for the job since it
	// began, or was put off the last time.
	tried bool

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the work; nil before run

	progress atomic.Pointer[model.Progress]
	report   progressReport
}

// interrupt ends the worker's act, unless the backup is stored already.
func (w *worker) interrupt(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel(cause)
	}
}

// write journals the next state and tells everybody.
func (w *worker) write(j *model.Job, to model.State, c journal.Change) error {
	return w.writeChecked(j, to, nil, c)
}

func (w *worker) writeChecked(j *model.Job, to model.State, check func(journal.Record) error, c journal.Change) error {
	point := "job.write-" + string(to)
	w.m.hit(point + crashpoint.Before)
	old, err := w.m.journal.ReplacedBases(j.Instance, c.Bases, c.DropBases)
	if err != nil {
		return err
	}
	got, from, err := w.m.journal.Step(j.ID, to, w.m.opts.Now(), check, c)
	if err != nil {
		return err
	}
	w.m.hit(point + crashpoint.After)
	if to != model.Precopying && to != model.Uploading && to != model.Restoring {
		w.report.settle() // what comes now says more than figures that were not sent yet
	}
	w.removeBases(old)
	w.m.changed(got, from)
	if to.Final() {
		return w.m.prune()
	}
	return nil
}

// act brackets something done to the host with its crash points.
func (w *worker) act(name string, do func() error) error {
	w.m.hit(name + crashpoint.Before)
	err := do()
	w.m.hit(name + crashpoint.After)
	return err
}

// deadlines bounds the work of a job whose backup is not stored yet.
func (w *worker) deadlines(ctx context.Context, j *model.Job) (context.Context, context.CancelFunc) {
	up, o := w.m.journal.Up(), w.m.opts
	cancels := []context.CancelFunc{}
	add := func(limit, spent time.Duration, cause error) {
		if limit <= 0 {
			return
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit-spent, fmt.Errorf("%w (%s)", cause, limit))
		cancels = append(cancels, cancel)
	}
	add(o.JobDeadline, max(0, up-j.AcceptedUp), errJobDeadline)
	if j.Hold && !j.HeldSince.IsZero() {
		add(o.FrozenDeadline, j.HeldTime(up), errFrozenDeadline)
	}
	return ctx, func() {
		for _, cancel := range cancels {
			cancel()
		}
	}
}

// fail journals why the job is undone.
func (w *worker) fail(j *model.Job, cause string) error {
	return w.write(j, model.Failing, journal.Change{Edit: func(j *model.Job) { j.Cause = cause }})
}

// trouble tells of an error whose message alone goes on.
func (w *worker) trouble(j *model.Job, doing string, err error) {
	w.m.parts.Observer.Trouble(j.Instance, j.ID, doing, err)
}

// undo fails the job because of an error. The stack of a panic goes
// to the log, and not into the journal.
func (w *worker) undo(j *model.Job, doing string, err error) error {
	if contain.Of(err) != nil {
		w.trouble(j, doing, err)
	}
	return w.fail(j, fmt.Sprintf("%s: %v", doing, err))
}

// giveUp decides the meaning of an error in the middle of the
// work: the job is put off when the agent goes down, else undone.
func (w *worker) giveUp(ctx context.Context, j *model.Job, doing string, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil && contain.Of(err) == nil && errors.Is(err, errWaitForStore):
		return w.waitForStore(j, err)
	case cause == nil, contain.Of(err) != nil:
		return w.undo(j, doing, err)
	case errors.Is(cause, errDrained):
		return w.write(j, model.Suspending, journal.Change{})
	case err == cause: //nolint:errorlint // an error that wraps the cause has more to say
		return w.fail(j, fmt.Sprintf("%v, during: %s", cause, doing))
	}
	return w.fail(j, fmt.Sprintf("%v, during: %s: %v", cause, doing, err))
}

// persist tries until it works, with growing pauses, for a way on that has no other way out. It
// gives up with errLeave when hard ends, after three more tries, as the host may be going down.
// A panic ends the tries, and comes back, except in the undoing of a job, which has to be done.
func (w *worker) persist(hard context.Context, j *model.Job, doing string, try func(ctx context.Context) error) error {
	pause, last := firstPause, 3
	for {
		ctx, cancel := acting(hard, actTimeout)
		err := contain.Call(func() error { return try(ctx) })
		cancel()
		if err == nil || contain.Of(err) != nil && !j.State.Undoing() {
			return err
		}
		w.m.parts.Observer.Trouble(j.Instance, j.ID, doing, err)
		w.checked()
		if hard.Err() != nil {
			if last--; last < 0 || stopOver(hard) {
				return errLeave
			}
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-hard.Done():
			time.Sleep(firstPause / 10)
		}
		pause = min(2*pause, lastPause)
	}
}
