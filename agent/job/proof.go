package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// Between a stored backup and the power-down hours can pass, in which the control plane takes
// its time and a bucket can lose confirmed objects. So the agent looks at the store again
// before the power-down, unless the verification is recent. A loss after that look nobody can
// prevent; a loss before it keeps the instance held, whose storage still has the bytes.

// ErrBackupGone says that the store answers, and lacks something on which a stored backup rests.
var ErrBackupGone = errors.New("the store has lost a part of the backup that it had confirmed")

// errUnproved says that the last look at the backup in the store is too old for a power-down.
var errUnproved = errors.New("the store was not asked lately whether it has the backup still")

// errAsked ends a look at the store because somebody asked for something meanwhile.
var errAsked = errors.New("interrupted")

// proofHolds tells whether the backup was seen to be in the store within the
// limit, by this process. Both clocks have to say so: the wall clock can be set
// back, and the one of the process stands still while the host is suspended.
func (w *worker) proofHolds(limit time.Duration) bool {
	if w.proved.IsZero() {
		return false
	}
	now := w.m.opts.Now()
	within := func(age time.Duration) bool { return age >= 0 && age < limit }
	return within(now.Sub(w.proved)) && within(now.Round(0).Sub(w.proved.Round(0)))
}

// prove makes sure that the backup of an acknowledged job is still in the
// store, so that the power-down may follow. ok is false where it is not, or is
// not known: then the job was moved on, or waits, and the caller returns err.
func (w *worker) prove(soft, hard context.Context, j *model.Job) (ok bool, err error) {
	if j.Gone == "" && w.proofHolds(w.m.opts.ProofAge) {
		return w.alone(soft, hard, j)
	}
	began := w.m.opts.Now()
	err = w.present(soft, hard, j)
	switch {
	case err == nil:
		w.proved, w.provePause = began, 0
		return true, nil
	case errors.Is(err, ErrBackupGone):
		w.provePause = 0
		return false, w.lose(j, err)
	case contain.Of(err) != nil:
		return false, err
	case soft.Err() != nil:
		return false, errLeave
	case errors.Is(err, errAsked):
		return false, nil
	}
	w.m.parts.Observer.Trouble(j.Instance, j.ID, "look whether the backup is still in the store, before the instance is powered down", err)
	w.provePause = min(max(firstPause, 2*w.provePause), lastPause)
	select {
	case <-time.After(w.provePause):
	case <-w.signal:
	case <-soft.Done():
	}
	return false, nil
}

// Loner looks, right before a power-down that needs no other look at the store, whether a copy of
// this host is at work. A Backuper that is none has no copies.
type Loner interface {
	// Alone fails where this agent may do nothing any more, since its state folder may be a copy,
	// and with the cause of ctx once that has ended. It returns within seconds, and soon after the
	// end of ctx, whatever the store does. A store that does not answer within these seconds, or
	// refuses the look, is no error. Backuper.Present looks too.
	Alone(ctx context.Context, j *model.Job) error
}

// alone tells whether the power-down may follow. Where the agent may take no step any more, the job
// stays in the journal. What interrupts present interrupts this look too: the job reads the journal
// again then, and where the instance is still to go down, it looks again.
func (w *worker) alone(soft, hard context.Context, j *model.Job) (bool, error) {
	loner, ok := w.m.parts.Backuper.(Loner)
	if !ok {
		return true, nil
	}
	err := w.listening(soft, hard, func(ctx context.Context) error { return loner.Alone(ctx, j) })
	switch {
	case err == nil:
		return true, nil
	case contain.Of(err) != nil:
		return false, err
	case soft.Err() != nil:
		return false, errLeave
	case errors.Is(err, errAsked):
		return false, nil
	}
	return false, errLeave
}

// present asks the store once. A resume or another wish for the job, and the end of
// the agent, interrupt it: while the store does not answer the instance stands still.
func (w *worker) present(soft, hard context.Context, j *model.Job) error {
	ctx, cancel := context.WithTimeoutCause(hard, actTimeout, fmt.Errorf("the store did not answer within %s", actTimeout))
	defer cancel()
	return w.listening(soft, ctx, func(ctx context.Context) error { return w.m.parts.Backuper.Present(ctx, j) })
}

// listening makes a look at the store. A wish for the job, and the end of soft, end the context of
// the look; errAsked then, unless the look has its answer all the same.
func (w *worker) listening(soft, hard context.Context, look func(context.Context) error) error {
	ctx, interrupt := context.WithCancelCause(hard)
	defer interrupt(nil)
	done := make(chan error, 1)
	go func() {
		err := errAsked
		defer func() { done <- err }()
		err = contain.Call(func() error { return look(ctx) })
	}()
	select {
	case err := <-done:
		return err
	case <-w.signal:
		interrupt(errAsked)
	case <-soft.Done():
		interrupt(errAsked)
	}
	if err := <-done; err == nil || errors.Is(err, ErrBackupGone) || contain.Of(err) != nil {
		return err
	}
	return errAsked
}

// lose holds the job of a backup that the store lost, and tells the control plane.
// A release that was asked for has to be asked for again: it looks once more.
func (w *worker) lose(j *model.Job, why error) error {
	held := func(j *model.Job) {
		j.Gone = why.Error()
		j.Cause = j.Gone + "; the instance is not powered down; resume lets it run, so that it can be backed up again; " +
			"once the store has all of the backup again, release powers it down"
		j.ReleaseAsked = false
	}
	if j.State != model.Held {
		return w.write(j, model.Held, journal.Change{Edit: held, Emit: w.m.event(model.EventGone)})
	}
	now, from, err := w.m.journal.Step(j.ID, "", w.m.opts.Now(), nil, journal.Change{Edit: held})
	if err != nil {
		return err
	}
	w.m.changed(now, from)
	return nil
}

// regained is the end of the hold of a backup that the store has
// again, or has in truth: the job is acknowledged as before.
func (w *worker) regained(soft, hard context.Context, j *model.Job) error {
	ok, err := w.prove(soft, hard, j)
	if !ok || err != nil {
		return err
	}
	return w.write(j, model.Acknowledged, journal.Change{Edit: func(j *model.Job) { j.Gone, j.Cause = "", "" }})
}
