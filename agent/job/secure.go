package job

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// secure does the next step from freezing to a stored backup. An error of
// an act ends the job or puts it off; the returned error is the journal's.
func (w *worker) secure(ctx context.Context, j *model.Job) error {
	doing, err := "begin", context.Cause(ctx)
	var next model.State
	var c journal.Change
	if err == nil {
		switch j.State {
		case model.Precopying:
			doing = "pre-copy"
			next, c, err = w.precopy(ctx, j)
		case model.Freezing:
			doing = "hold the instance"
			next, c, err = w.freeze(ctx, j)
		case model.Frozen:
			doing = "plan the snapshots"
			next, c, err = w.plan(ctx, j)
		case model.Snapshotting:
			doing = "make a snapshot"
			next, c, err = w.snapshot(ctx, j)
		case model.Snapshotted:
			next = model.Uploading
		default:
			doing = "back up"
			next, c, err = w.upload(ctx, j)
		}
	}
	if err != nil {
		return w.giveUp(ctx, j, doing, err)
	}
	err = w.writeChecked(j, next, notCancelled, c)
	if errors.Is(err, errCancelled) {
		return w.fail(j, errCancelled.Error())
	}
	return err
}

// notCancelled keeps a job that was cancelled from being stored: once it is, it can't be undone.
func notCancelled(j journal.Record) error {
	if j.CancelAsked {
		return errCancelled
	}
	return nil
}

func (w *worker) freeze(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	instance, err := w.instance(j)
	if err != nil {
		return "", journal.Change{}, err
	}
	sight, err := instance.Runtime.State(ctx)
	if err != nil {
		return "", journal.Change{}, err
	}
	if sight.State != model.IsStopped || j.Found != model.IsStopped {
		if err := w.mark(j); err != nil {
			return "", journal.Change{}, err
		}
		hold := instance.Runtime.Freeze
		if j.Mode == model.ModeStop {
			hold = instance.Runtime.Stop
		}
		err := w.act(crashpoint.Freeze, func() error { return hold(ctx) })
		if err != nil {
			return "", journal.Change{}, err
		}
	}
	if sight, err = w.stillHeld(ctx, j, instance); err != nil {
		return "", journal.Change{}, err
	}
	return model.Frozen, journal.Change{Edit: func(j *model.Job) { j.Held = sight }}, nil
}

func (w *worker) plan(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	instance, err := w.instance(j)
	if err != nil {
		return "", journal.Change{}, err
	}
	planned, err := instance.Snapshots.Plan(ctx, lastName(j))
	if err != nil {
		return "", journal.Change{}, err
	}
	return model.Snapshotting, journal.Change{Edit: func(j *model.Job) { j.Snapshots = planned }}, nil
}

func (w *worker) snapshot(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	made, err := w.makeSnapshots(ctx, j)
	if err != nil {
		return "", journal.Change{}, err
	}
	return model.Snapshotted, journal.Change{Edit: func(j *model.Job) { j.Snapshots = made }}, nil
}

func (w *worker) upload(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	working, stop := w.whileStoreAnswers(ctx, j)
	result, err := w.engine(working, j, j.Snapshots, false)
	stop()
	if err != nil {
		if cause := context.Cause(working); ctx.Err() == nil && errors.Is(cause, ErrStoreAway) {
			return "", journal.Change{}, fmt.Errorf("%w: %w", errWaitForStore, err)
		}
		return "", journal.Change{}, err
	}
	if err := result.Complete(); err != nil {
		return "", journal.Change{}, err
	}
	return model.Stored, journal.Change{Edit: func(j *model.Job) { j.Result = result }}, nil
}
