package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// toRestore gathers the facts on which a restore rests, and does what Decide says.
func (w *worker) toRestore(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	if j.PutBack != "" {
		return w.toPutBack(ctx, j)
	}
	restorer := w.m.parts.Restorer
	if restorer == nil {
		return "", journal.Change{}, errors.New("this agent does not restore")
	}
	// as it is configured now: the job may have waited over a restart
	instance, err := w.ofTenant(j)
	if err != nil {
		return "", journal.Change{}, fmt.Errorf("look for the instance: %w", err)
	}
	f, err := w.facts(ctx, j, instance)
	if err != nil {
		return "", journal.Change{}, err
	}
	d := prepare.Decide(f)
	r := &model.Restore{Backup: f.Newest.Backup, Seq: f.Newest.Seq, Created: f.Newest.Created, Vault: f.Newest.Vault, Certain: d.Certain, Warning: d.Warning}
	switch d.Action {
	case prepare.ActReady:
		next := model.Done
		if r.Ready = true; f.Found == model.IsRunning {
			r = &model.Restore{Ready: true, Warning: d.Warning}
		} else if r.Placed = true; f.Start && f.Holds {
			next = model.Starting
		}
		if err := w.claim(ctx, j, f, r); err != nil {
			return "", journal.Change{}, err
		}
		return next, journal.Change{Edit: func(j *model.Job) { j.Found, j.Restore, j.Kept = f.Found, r, instance.Keep }}, nil
	case prepare.ActRestore:
		if r.Places, err = restorer.Plan(ctx, j.Instance, j.ID); err != nil {
			return "", journal.Change{}, fmt.Errorf("find the volumes' places: %w", err)
		}
		if err := w.planReplacing(ctx, j, instance, r); err != nil {
			return "", journal.Change{}, err
		}
		if err := w.claim(ctx, j, f, r); err != nil {
			return "", journal.Change{}, err
		}
		return model.Restoring, journal.Change{Edit: func(j *model.Job) { j.Found, j.Restore, j.Kept = f.Found, r, instance.Keep }}, nil
	}
	return "", journal.Change{}, d.Err
}

// restore builds the volumes beside their places. A crash leaves
// folders that the journal names; the next life begins anew.
func (w *worker) restore(ctx context.Context, j *model.Job) error {
	restorer := w.m.parts.Restorer
	err := context.Cause(ctx)
	for _, p := range j.Restore.Places {
		for err == nil {
			if err = w.clearStage(j, p); !errors.Is(err, ErrNoAnswer) {
				break
			}
			err = sleep(ctx, firstPause) // a tree takes the time that it takes
		}
	}
	if err == nil {
		err = w.makeRoom(ctx, j)
	}
	if errors.Is(err, errCancelled) {
		return w.fail(j, errCancelled.Error())
	}
	var result *model.RestoreResult
	var places []model.Place
	if err == nil {
		err = w.act(crashpoint.Restore, func() error {
			result, places, err = restorer.Restore(ctx, RestoreRequest{
				Instance: j.Instance, Tenant: j.Tenant, Backup: j.Restore.Backup, Seq: j.Restore.Seq, Vault: j.Restore.Vault, Places: j.Restore.Places,
				Progress: func(p model.Progress) { w.progressed(j, p) },
			})
			return err
		})
	}
	if err == nil && slices.ContainsFunc(places, func(p model.Place) bool { return p.Tree == "" }) {
		err = errors.New("the restore engine did not say which trees it made")
	}
	if err != nil {
		return w.giveUp(ctx, j, "restore", withoutVolumes(j.Restore, err))
	}
	planned := w.planRestored(ctx, j, places, result)
	err = w.writeChecked(j, model.Placing, notCancelled, journal.Change{Edit: func(j *model.Job) {
		j.Restore.Places, j.Restore.Result, j.Snapshots = places, result, planned
	}})
	if errors.Is(err, errCancelled) {
		return w.fail(j, errCancelled.Error())
	}
	return err
}

// putInPlace makes the base snapshots, and puts all volumes into their places. A crash
// may leave some of them in place; the next life goes on. After an error it takes the
// placed volumes out again, so that an instance never has volumes of two times.
func (w *worker) putInPlace(hard context.Context, j *model.Job) error {
	placed, err := w.countPlaced(j)
	var bases []model.Base
	if err == nil {
		ctx, cancel := acting(hard, actTimeout)
		bases = w.baseRestored(ctx, j, placed)
		cancel()
	}
	ctx, cancel := acting(hard, actTimeout) // however long the bases took
	defer cancel()
	if err == nil && placed < len(j.Restore.Places) {
		if err = w.mayMove(ctx, j); err == nil {
			err = w.nothingAppeared(ctx, j)
		}
	}
	for _, p := range j.Restore.Places {
		if err == nil {
			w.noteOld(j, p)
			err = w.act(crashpoint.Place, func() error { return w.m.parts.Restorer.Put(p) })
		}
	}
	if err != nil {
		return w.undo(j, "put the restored volumes into place", withoutVolumes(j.Restore, err))
	}
	counting, end := acting(hard, actTimeout)
	defer end()
	places, sum, kept, err := w.replaced(counting, j)
	if err != nil {
		return w.undo(j, "look at the content that the restored volumes have replaced", err)
	}
	return w.write(j, model.Restored, journal.Change{
		Edit: func(j *model.Job) {
			j.Restore.Placed, j.Restore.Places, j.Restore.Replaced, j.Snapshots = true, places, sum, nil
		}, Bases: bases,
		Kept: kept, Unkept: j.PutBack,
		DropBases: true, // bases of the old volumes say nothing about these volumes
	})
}

// countPlaced tells how many volumes are in their places.
func (w *worker) countPlaced(j *model.Job) (n int, err error) {
	for _, p := range j.Restore.Places {
		in, err := w.m.parts.Restorer.Placed(p)
		if err != nil {
			return 0, err
		}
		if in {
			n++
		}
	}
	return n, nil
}

// mayMove is nil when the instance does not run, so that its volumes
// can be exchanged: neither the instance with which the restore began,
// nor the instance that the configuration has under that id now.
func (w *worker) mayMove(ctx context.Context, j *model.Job) error {
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	all := []Instance{instance}
	if now, err := w.m.parts.Instance(j.Instance); err == nil && !bytes.Equal(now.Keep, instance.Keep) {
		all = append(all, now)
	}
	for _, instance := range all {
		state, err := w.user(ctx, j, instance)
		if err != nil {
			return fmt.Errorf("look at the instance: %w", err)
		}
		if state == model.IsRunning || state == model.IsFrozen {
			return fmt.Errorf("the instance is %s, although it was %s when the restore began: stop it", state, j.Found)
		}
	}
	return nil
}

// settle removes the content that the restored volumes have replaced, or keeps it.
func (w *worker) settle(j *model.Job) error {
	left, _ := w.discard(j) // the journal identifies all trees of a restore in place
	instance, err := w.instance(j)
	if err != nil {
		return w.write(j, model.Failing, journal.Change{Left: left, Edit: func(j *model.Job) { j.Cause = fmt.Sprintf("look for the instance: %v", err) }})
	}
	if w.m.opts.StartRestored && instance.Holds {
		return w.write(j, model.Starting, journal.Change{Left: left})
	}
	return w.write(j, model.Done, journal.Change{Left: left, Emit: w.m.event(model.EventRestoreCompleted)})
}

// startTries is how often a start is tried: an engine that is just coming up gets some
// seconds; what keeps failing is for a person to look at, and the volumes are in place.
const startTries = 3

// start starts a restored instance and looks that it runs.
func (w *worker) start(hard context.Context, j *model.Job) error {
	var err error
	for try := range startTries {
		if try > 0 && sleep(hard, firstPause<<try) != nil {
			return errLeave
		}
		ctx, cancel := acting(hard, actTimeout)
		err = w.startOnce(ctx, j)
		cancel()
		if err == nil {
			return w.write(j, model.Done, journal.Change{Emit: w.m.event(model.EventRestoreCompleted)})
		}
		w.m.parts.Observer.Trouble(j.Instance, j.ID, "start the restored instance", err)
	}
	return w.fail(j, fmt.Sprintf("the volumes are restored and in place, but the instance could not be started: %v", err))
}

func (w *worker) startOnce(ctx context.Context, j *model.Job) error {
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	if err := w.act(crashpoint.Start, func() error { return instance.Runtime.Start(ctx) }); err != nil {
		return err
	}
	sight, err := instance.Runtime.State(ctx)
	if err != nil {
		return fmt.Errorf("look at the instance after the start: %w", err)
	}
	state := sight.State
	if state != model.IsRunning && state != model.IsUnknown {
		return fmt.Errorf("it is %s after the start", state)
	}
	return nil
}

// undoRestore brings the old volumes back after a restore that failed or is put off.
// Volumes that are in place for good stay. All of it can be done again after a crash.
func (w *worker) undoRestore(ctx context.Context, j *model.Job) error {
	if j.Restore == nil || j.Restore.Placed {
		return nil
	}
	if len(j.Restore.Out) > 0 && !j.Restore.Condemned {
		return w.bringBack(j) // nothing was built yet
	}
	placed, err := w.countPlaced(j)
	if err != nil {
		return err
	}
	if placed > 0 {
		if err := w.mayMove(ctx, j); err != nil {
			return err
		}
		for _, p := range slices.Backward(j.Restore.Places) {
			if err := w.act(crashpoint.PutBack, func() error { return w.m.parts.Restorer.Back(p) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// planReplacing counts the content in the places of the volumes, where a backup holds it for
// certain: content that is still the same once it is out of its place need not be kept. Then it
// looks for room. The facts of the decision are gathered once more after the count, so that nothing
// changes in between unseen.
func (w *worker) planReplacing(ctx context.Context, j *model.Job, instance Instance, r *model.Restore) error {
	olds := map[string]string{}
	for i := range r.Places {
		p := &r.Places[i]
		if !r.Certain {
			continue
		}
		old, was, err := w.m.parts.Restorer.Count(ctx, *p, p.Target)
		if err != nil {
			return fmt.Errorf("count the content of volume %q: %w", p.Volume, err)
		}
		if old != "" {
			p.Was, olds[p.Volume] = was, old
		}
	}
	if len(olds) > 0 {
		f, err := w.facts(ctx, j, instance)
		if err != nil {
			return err
		}
		d := prepare.Decide(f)
		switch {
		case d.Action == prepare.ActRefuse:
			return d.Err
		case d.Action == prepare.ActReady || f.Newest.Backup != r.Backup:
			return errors.New("the volumes or the vault changed while the restore was decided; command it again")
		}
		r.Certain = d.Certain
	}
	if err := w.planRoom(ctx, j, r, olds); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	return nil
}

// discard removes the trees beside the places of a restore: the replaced trees, or the built
// trees that are not needed. It keeps content that is to be kept, and returns each tree that it
// can't remove. A tree of which the journal does not know (errTakenOut) is no leftover, because
// seekKept adopts it; the error names such trees.
func (w *worker) discard(j *model.Job) (left []model.Leftover, stays error) {
	places := j.Restore.Places
	switch {
	case j.PutBack != "" && !j.Restore.Placed:
		return nil, nil // the kept content lies at the stages
	case j.Restore.Condemned:
		places = slices.Clone(places)
		for _, p := range j.Restore.Out {
			places = append(places, model.Place{Volume: p.Volume, Target: p.Target, Stage: p.Aside, Holder: p.Holder, Old: p.Old})
		}
	}
	for _, p := range places {
		if p.Aside != "" {
			w.setAside(j, p)
			continue
		}
		if j.PutBack != "" {
			continue // it has replaced nothing
		}
		err := w.act(crashpoint.Discard, func() error {
			return contain.Call(func() error { return w.m.discardTree(p) })
		})
		switch {
		case errors.Is(err, errTakenOut):
			stays = errors.Join(stays, err)
			w.m.parts.Observer.Lacked(j.Instance, j.ID, "remove "+p.Stage, err)
		case err != nil:
			left = append(left, w.leave(j, model.Leftover{Place: &p}, err))
		}
	}
	return left, stays
}
