package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// found is the job's instance and how it is; an error when it can't be backed up so.
func (w *worker) found(ctx context.Context, j *model.Job) (Instance, model.Sight, error) {
	instance, err := w.ofTenant(j)
	if err != nil {
		return Instance{}, model.Sight{}, fmt.Errorf("look for the instance: %w", err)
	}
	found, err := w.look(ctx, instance)
	return instance, found, err
}

// look tells how an instance is that is about to be backed up; an error when it can't be.
func (w *worker) look(ctx context.Context, instance Instance) (model.Sight, error) {
	found, err := instance.Runtime.State(ctx)
	switch {
	case err != nil:
		return model.Sight{}, fmt.Errorf("look at the instance: %w", err)
	case found.State == model.IsFrozen:
		return model.Sight{}, errors.New("the instance is frozen already, and not by this agent")
	case found.State != model.IsRunning && found.State != model.IsStopped && found.State != model.IsUnknown:
		return model.Sight{}, fmt.Errorf("the runtime says that the instance is %s", found.State)
	}
	return found, nil
}

// toHold waits for the turn to hold the instance, so that few are held at a
// time, and makes the change that journals the intent. An instance that stands
// still by itself, or that nothing holds, needs no turn: nobody waits for it.
func (w *worker) toHold(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	instance, found, err := w.found(ctx, j)
	if err != nil {
		return "", journal.Change{}, err
	}
	if instance.Holds && found.State != model.IsStopped {
		if err := w.turnToHold(ctx, j); err != nil {
			return "", journal.Change{}, err
		}
		if instance, found, err = w.found(ctx, j); err != nil {
			return "", journal.Change{}, err
		}
	}
	return model.Freezing, journal.Change{Edit: func(j *model.Job) {
		j.Found, j.Hold, j.BootID, j.Snapshots, j.Kept = found.State, true, w.m.opts.BootID, nil, instance.Keep
		j.Identity, j.Held = found.ID, model.Sight{}
		j.HeldSince, j.HeldUntil, j.HeldUp, j.HeldFor = time.Time{}, time.Time{}, 0, 0
		if instance.Holds {
			j.BeginHold(w.m.opts.Now(), w.m.journal.Up())
		}
	}}, nil
}

// turnToHold waits for the turn to hold the instance and for the store, and returns with both: the
// store is asked anew after each wait for the turn. No turn is kept while the store is away.
func (w *worker) turnToHold(ctx context.Context, j *model.Job) error {
	told := false
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if w.hold == nil {
			w.hold = w.m.holds.join(w.place)
		}
		if err := w.hold.wait(ctx); err != nil {
			return fmt.Errorf("wait for the turn to hold the instance: %w", err)
		}
		err := w.reach(ctx, j)
		if err == nil {
			return nil
		}
		w.hold.leave()
		w.hold = nil
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the store: %w", context.Cause(ctx))
		}
		if !errors.Is(err, ErrStoreAway) {
			return fmt.Errorf("ask the store before the instance is held: %w", err)
		}
		if !told {
			told = true
			w.m.parts.Observer.Lacked(j.Instance, j.ID, "reach the store; the instance runs until the store answers, and is held then", err)
		}
		if cause := sleep(ctx, pause); cause != nil {
			return fmt.Errorf("wait for the store: %w, after: %w", cause, err)
		}
	}
}
