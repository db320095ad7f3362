package job

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// makeSnapshots makes the snapshots that the journal names. Where one can't be
// made, another way is taken, which is journalled before; a round of pre-copy goes
// on without a volume of which there can be no snapshot while the instance runs.
func (w *worker) makeSnapshots(ctx context.Context, j *model.Job) (made []model.Snapshot, err error) {
	instance, err := w.instance(j)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(j.Snapshots); {
		planned := j.Snapshots[i]
		if readInPlace(j, planned) {
			planned.Root = planned.Ref.Volume
			made = append(made, planned)
			i++
			continue
		}
		// An earlier life may have made it, in whole or in part; when
		// it did is not known, so it goes.
		var left []model.Leftover
		err := instance.Snapshots.Remove(ctx, planned.Ref)
		if err != nil {
			left = append(left, w.leave(j, model.Leftover{Ref: planned.Ref}, err))
		} else {
			err = w.act(crashpoint.Snapshot, func() error {
				s, err := instance.Snapshots.Create(ctx, snapshotName(j), planned)
				if err == nil {
					made = append(made, s)
				}
				return err
			})
		}
		if err == nil {
			i++
			continue
		}
		err = fmt.Errorf("volume %q: %w", planned.Name, err)
		if j, err = w.instead(ctx, j, i, instance, err, left); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// readInPlace tells whether a round of pre-copy reads the volume itself, and has no snapshot.
func readInPlace(j *model.Job, s model.Snapshot) bool { return j.State == model.Precopying && !s.Live }

// instead journals the snapshot that is made in the place of the i-th snapshot
// of the job, or that none is. It returns the cause where there is no other
// way. left names the possible remains of the snapshot that could not be made.
func (w *worker) instead(ctx context.Context, j *model.Job, i int, instance Instance, cause error, left []model.Leftover) (*model.Job, error) {
	if ctx.Err() != nil {
		return nil, cause
	}
	other, means, ok := instance.Snapshots.Instead(ctx, snapshotName(j), j.Snapshots[i], cause)
	if !ok || j.Mode == model.ModeLive && !other.Live {
		return nil, cause
	}
	skip := j.State == model.Precopying && !other.Live && !other.Warm
	w.m.parts.Observer.Lacked(j.Instance, j.ID, fmt.Sprintf("make the snapshot of volume %q as planned: %s", other.Name, means), cause)
	next, _, err := w.m.journal.Step(j.ID, "", w.m.opts.Now(), nil, journal.Change{Left: left, Edit: func(j *model.Job) {
		if skip {
			j.Snapshots = slices.Delete(j.Snapshots, i, i+1)
		} else {
			j.Snapshots[i] = other
		}
	}})
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	return next, nil
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

// engine runs the backup engine over snapshots that stand.
func (w *worker) engine(ctx context.Context, j *model.Job, snapshots []model.Snapshot, precopy bool) (result *model.Result, err error) {
	packs, err := w.m.journal.Packs(j.ID)
	if err != nil {
		return nil, err
	}
	w.tried = true
	r := BackupRequest{
		Job: j.ID, Task: j.Task, Instance: j.Instance, Tenant: j.Tenant, Kept: j.Kept, Precopy: precopy, Deadline: j.Deadline, Resume: packs,
		PackIntent: func(pack string) error {
			return w.act(crashpoint.WritePack, func() error { return w.m.journal.AddPack(j.ID, pack) })
		},
		Progress: func(p model.Progress) { w.progressed(j, p) },
	}
	if !precopy {
		r.Sent = w.ticket.leave // another job may have the turn while this one finishes
		r.Accept = func(ctx context.Context) error { return w.ranMeanwhile(ctx, j) }
		if r.Content, err = w.m.journal.Content(j.Instance); err != nil {
			return nil, err
		}
		r.BackupIntent = func(id string) error {
			return w.act(crashpoint.WriteBackup, func() error { return w.m.journal.NoteTried(j.Instance, id) })
		}
	}
	bases, err := w.m.journal.Bases(j.Instance)
	if err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		source := Source{Volume: s.Name, Root: s.Root}
		if !readInPlace(j, s) {
			source.Taken, source.Ref, source.Mounted, source.Clock = s.Taken, s.Ref, s.Mounted, s.Clock
		}
		if i := slices.IndexFunc(bases, func(b model.Base) bool { return b.Volume == s.Name && b.Ref.Path != s.Ref.Path }); i >= 0 && s.Live {
			source.Base = &bases[i]
		}
		r.Sources = append(r.Sources, source)
	}
	err = w.act(crashpoint.Upload, func() error {
		result, err = w.m.parts.Backuper.Backup(ctx, r)
		return err
	})
	return result, err
}
