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

// roundName names the snapshots of a round of pre-copy. No two rounds
// of a job share a name: the snapshot of one round may stand as a base
// while the next round makes its own, and must not be taken for it.
func roundName(j *model.Job, round int) string {
	return fmt.Sprintf("%s-%d-%d", j.ID, j.Attempts, round)
}

// lastName names the snapshots that a backup is made of, or that become
// bases of restored volumes. Each try of the job has names of its own: what
// the try before could not remove may be removed while this one works.
func lastName(j *model.Job) string {
	if j.Attempts == 0 {
		return j.ID
	}
	return fmt.Sprintf("%s-%d", j.ID, j.Attempts)
}

// snapshotName names the snapshots of the step that the job is in.
func snapshotName(j *model.Job) string {
	if j.State == model.Precopying {
		return roundName(j, len(j.Rounds))
	}
	return lastName(j)
}

// readInPlace tells whether a round of pre-copy reads the volume itself, and has no snapshot.
func readInPlace(j *model.Job, s model.Snapshot) bool { return j.State == model.Precopying && !s.Live }

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

// ofRound returns the snapshots that a round can read while the instance runs.
func ofRound(planned []model.Snapshot) []model.Snapshot {
	return slices.DeleteFunc(slices.Clone(planned), func(s model.Snapshot) bool { return !s.Live && !s.Warm })
}
