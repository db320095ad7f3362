package job

import (
	"context"
	"fmt"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// resume compares a job of an earlier life with the host and decides how it goes on.
//
// Invariant journal-first: the journal names every act
// of that life, so nothing else has to be looked for.
func (w *worker) resume(work, hard context.Context, j *model.Job) error {
	ctx, cancel := w.deadlines(work, j)
	defer cancel()
	goesOn, err := false, context.Cause(ctx)
	if err == nil {
		err = w.configured(j)
	}
	began := time.Now()
	for pause := firstPause; err == nil; pause = min(2*pause, lastPause) {
		var lookErr error
		if goesOn, lookErr = w.inspect(ctx, j); lookErr == nil {
			break
		}
		w.lendStuck(began)
		// The runtime may come up later than the agent. The instance
		// stays as it is until it can be seen.
		w.m.parts.Observer.Trouble(j.Instance, j.ID, "look at the instance after a restart", lookErr)
		w.checked()
		err = sleep(ctx, pause)
	}
	w.checked()
	w.resumed = false
	w.reclaim()
	switch {
	case err != nil && hard.Err() != nil:
		return errLeave
	case err != nil:
		return w.fail(j, fmt.Sprintf("%v, during: look at the instance after a restart of the agent", err))
	case goesOn:
		return nil
	}
	return w.write(j, model.Suspending, journal.Change{})
}

// inspect tells whether the job can go on where it was: the instance has not run since, and the
// snapshots that the journal says were made stand.
func (w *worker) inspect(ctx context.Context, j *model.Job) (bool, error) {
	instance, err := w.instance(j)
	if err != nil {
		return false, err
	}
	now, why, err := w.unheld(ctx, j, instance)
	if err != nil {
		return false, err
	}
	if j.State == model.Freezing && j.BootID != w.m.opts.BootID {
		// whatever froze it was before the host was restarted: let go of it, and begin anew
		return false, nil
	}
	if j.State == model.Freezing || j.State == model.Precopying {
		// The intent alone: freezing it again is the same, whether the first freeze
		// worked or not, and so is a round of snapshots of a running instance. A missing
		// instance can't be frozen, and the thaw on the way back copes with that.
		return now.State != model.IsMissing, nil
	}
	if why != "" {
		return false, nil
	}
	if j.State != model.Snapshotted && j.State != model.Uploading {
		return true, nil
	}
	for _, s := range j.Snapshots {
		stands, err := instance.Snapshots.Stands(ctx, s)
		if err != nil || !stands {
			return false, err
		}
	}
	return true, nil
}

// letGo is the end of every way: the instance runs again where it should, its volumes are the old
// ones, the snapshots go, and then the journal says so. All of it can be done again after a crash.
// Things that can't be removed are left (see Leftover): they keep nobody from the end of the job.
func (w *worker) letGo(hard context.Context, j *model.Job) error {
	began := time.Now()
	err := w.persist(hard, j, "let go of the instance", func(ctx context.Context) error {
		if w.abandoned() {
			return nil
		}
		err := w.restoreHost(ctx, j)
		if err != nil {
			w.lendStuck(began)
		}
		return err
	})
	w.reclaim()
	if err != nil {
		return err
	}
	if w.abandoned() {
		return w.m.abandon(j)
	}
	w.m.parts.Backuper.Over(hard, j.ID) // after the thaw, for which nothing is to wait
	kept := w.atEnd(hard, j)
	left := w.dropSnapshots(hard, j, kept)
	var stays error
	if j.Restore != nil { // its new trees, or the replaced ones: it may not have come to the removal
		var trees []model.Leftover
		trees, stays = w.discard(j)
		left = append(left, trees...)
	}
	over := func(j *model.Job) {
		if j.Hold {
			j.EndHold(w.m.opts.Now(), w.m.journal.Up())
		}
		j.Snapshots = nil
		if j.Restore != nil && j.State != model.Failed {
			j.Restore = nil // it begins anew, perhaps with a newer backup
		}
	}
	w.hold.leave()
	w.hold = nil // a job that is put off waits for another turn
	switch j.State {
	case model.Released:
		return w.write(j, model.Done, journal.Change{Edit: over, DropBases: true, Left: left})
	case model.Ending:
		return w.write(j, model.Done, journal.Change{Edit: over, Bases: kept, Left: left})
	case model.Resuming:
		return w.write(j, model.Done, journal.Change{Edit: over, Emit: w.m.event(model.EventResumed), Bases: kept, Left: left})
	case model.Suspending:
		packs, fruitless, err := w.fruitless(j)
		if err != nil {
			return err
		}
		if fruitless >= maxFruitless {
			return w.fail(j, fmt.Sprintf("it was put off %d times, one after the other, without storing anything new; look why the agent or the host stops so often", maxFruitless))
		}
		if stays != nil { // the next try would build at that very path
			return w.fail(j, "it was put off, and another try is not possible: "+stays.Error())
		}
		if j.IsRestore() && len(left) > 0 {
			return w.fail(j, "it was put off, and what it had built can't be removed to make room for another try: "+left[0].Error)
		}
		// The snapshots of the next try have other names: the snapshots
		// of this try may be leftovers, which are removed at any time.
		return w.write(j, model.Accepted, journal.Change{Left: left, Edit: func(j *model.Job) {
			over(j)
			j.Identity, j.Held = "", model.Sight{} // another may have its name when it is held next
			j.Attempts++
			j.ForStore = false
			j.Fruitless, j.PacksBefore = fruitless, packs
		}})
	}
	event := model.EventFailed
	if j.IsRestore() {
		event = model.EventRestoreFailed
	}
	return w.write(j, model.Failed, journal.Change{Edit: over, Emit: w.m.event(event), Bases: kept, Left: left})
}

// restoreHost lets the instance run again where it should, and brings its old volumes back.
func (w *worker) restoreHost(ctx context.Context, j *model.Job) error {
	if j.IsRestore() {
		return w.undoRestore(ctx, j)
	}
	if !j.Hold {
		return nil
	}
	if j.State != model.Released {
		instance, err := w.instance(j)
		if err != nil {
			return err
		}
		if err := w.thaw(ctx, j, instance); err != nil {
			return err
		}
	}
	return w.unmark(j)
}

// lateLooks and lateLook are how often, and how far apart, an instance
// is looked at after a hold with an unknown outcome: a request to an
// engine, or a command that was ended, may take effect a little later.
const (
	lateLooks = 5
	lateLook  = time.Second
	// lateStops is for a stop: an engine gives the instance tens of
	// seconds to end in its own way, whether the call has failed or not.
	lateStops = 45
)

// thaw lets an instance that this job froze or stopped run again, and
// looks that it does, after a hold that failed more than once. An
// instance that someone else has stopped or removed is left as it is.
func (w *worker) thaw(ctx context.Context, j *model.Job, instance Instance) error {
	looks := 1
	if j.Entered[model.Frozen].Before(j.Entered[model.Freezing]) {
		if looks = lateLooks; j.Mode == model.ModeStop {
			looks = lateStops
		}
	}
	for look := 1; ; look++ {
		if err := w.thawOnce(ctx, j, instance); err != nil || look == looks {
			return err
		}
		if err := sleep(ctx, lateLook); err != nil {
			return err
		}
	}
}

func (w *worker) thawOnce(ctx context.Context, j *model.Job, instance Instance) error {
	sight, err := instance.Runtime.State(ctx)
	if err != nil {
		return fmt.Errorf("look at the instance: %w", err)
	}
	state := sight.State
	verb, again := "thaw", instance.Runtime.Thaw
	if j.Mode == model.ModeStop {
		verb, again = "start", instance.Runtime.Start
	}
	stopped := j.Mode == model.ModeStop && state == model.IsStopped && j.Found != model.IsStopped
	switch {
	case state == model.IsFrozen && j.Held.State == model.IsStopped:
		return nil // this job has not frozen it: it was down
	case state != model.IsFrozen && state != model.IsUnknown && !stopped:
		return nil
	}
	if err := w.act(crashpoint.Thaw, func() error { return again(ctx) }); err != nil {
		return fmt.Errorf("%s the instance: %w", verb, err)
	}
	if sight, err = instance.Runtime.State(ctx); err != nil {
		return fmt.Errorf("look at the instance after the %s: %w", verb, err)
	}
	state = sight.State
	if state == model.IsFrozen || stopped && state == model.IsStopped {
		return fmt.Errorf("the instance is still %s after the %s", state, verb)
	}
	return nil
}

// fruitless counts how often in a row the job was put off, this time included, without
// anything new of it in the store; packs is how many packs the journal names. The progress
// tells the packs that this life has sent, and the journal the packs of earlier lives.
func (w *worker) fruitless(j *model.Job) (packs, n int, err error) {
	named, err := w.m.journal.Packs(j.ID)
	if err != nil {
		return 0, 0, err
	}
	stored := len(named) > j.PacksBefore
	if w.tried {
		p := w.progress.Load()
		stored = stored && p != nil && p.BytesSent > 0
	}
	w.tried = false
	w.progress.Store(nil)
	switch {
	case stored:
		return len(named), 0, nil
	case w.m.opts.RecoverOnly, j.ForStore: // nobody has tried, or the store kept it from storing
		return len(named), j.Fruitless, nil
	}
	return len(named), j.Fruitless + 1, nil
}
