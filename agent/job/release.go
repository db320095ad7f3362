package job

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// errMayNotRelease says that the journal does not have all that a power-down rests on.
var errMayNotRelease = errors.New("the journal does not allow a release")

// mayRelease is the gate of every power-down.
//
// Invariant release-last: an instance is powered down only after its manifest is durable, was read
// back and matches, the report was acknowledged, and all of that is in the journal.
func mayRelease(j journal.Record) error {
	no := func(why string) error { return fmt.Errorf("job %s: %s: %w", j.ID, why, errMayNotRelease) }
	switch {
	case j.IsRestore():
		return no("it is a restore")
	case j.State != model.Acknowledged && j.State != model.Releasing:
		return no("it is " + string(j.State))
	case j.Result.Complete() != nil:
		return no("no verified backup is journalled")
	case j.Entered[model.Stored].IsZero() || j.Entered[model.Reported].IsZero() || j.Entered[model.Acknowledged].IsZero():
		return no("a state is missing on its way")
	case j.ReportSeq == 0 || j.AcknowledgedAt.IsZero():
		return no("the report was not acknowledged")
	case j.ReportWaits:
		return no("the report is still in the outbox")
	case j.Gone != "":
		return no("the store lacks a part of the backup")
	case j.ForkOpen():
		return no("its backup makes a fork, and nobody has decided which backup is the newest")
	case !j.Hold:
		return no("the instance was let go of since it was backed up")
	case j.ResumeAsked:
		return no("the instance is to run again")
	case j.Policy != model.ReleaseByAgent && !j.ReleaseAsked:
		return no("the control plane has not asked for it")
	case !j.MayGoDown():
		return no("the runtime can't tell whether the instance ran since it was backed up, and nobody has asked for the release")
	}
	return nil
}

// powerDown is the only caller of Runtime.PowerDown. errUnproved
// where the store has to be looked at first.
func (w *worker) powerDown(ctx context.Context, instance Instance) error {
	if !w.proofHolds(max(w.m.opts.ProofAge, actTimeout)) {
		return errUnproved
	}
	j, err := w.m.journal.Record(w.id)
	if err != nil {
		return err
	}
	if j.State != model.Releasing {
		return fmt.Errorf("job %s: the intent is not journalled: %w", j.ID, errMayNotRelease)
	}
	if err := mayRelease(j); err != nil {
		return err
	}
	held := &j.Held
	if w.begun {
		held.Work = "" // it is in part down, and has worked to get there
	}
	before := w.mayBeDown
	w.mayBeDown = true // also if that panics
	err = w.act(crashpoint.PowerDown, func() error { return instance.Runtime.PowerDown(ctx, held) })
	w.begun = w.begun || errors.Is(err, model.ErrBegun)
	w.mayBeDown = err == nil || before || w.begun
	return err
}

// release powers the instance down and journals that it was seen to be down.
//
// Invariant nothing-lost: only an instance that has not run since its snapshot is powered
// down. An instance that runs, or has run (someone else resumed it, or the host rebooted
// and the runtime restarted it), has newer bytes than the backup; it stays up, and the
// job fails and says so. An instance that was frozen and is down without this agent's
// doing was ended by a runtime that let it run for that, and may have newer bytes too.
func (w *worker) release(hard context.Context, j *model.Job) error {
	ran, stale, up := "", false, false
	err := w.persist(hard, j, "power the instance down", func(ctx context.Context) error {
		instance, err := w.instance(j)
		if err != nil {
			return err
		}
		down, why, err := w.downOrHeld(ctx, j, instance)
		if ran = why; err != nil || why != "" {
			return err
		}
		if down && w.stands(j, model.IsStopped) == "" && !w.proofHolds(max(w.m.opts.ProofAge, actTimeout)) {
			// it was found stopped, or this job stopped it: no
			// power-down follows, which would ask for the proof
			stale = true
			return nil
		}
		if !down {
			if err := w.powerDown(ctx, instance); errors.Is(err, errUnproved) {
				stale, up = true, true
				return nil
			} else if err != nil {
				return err
			}
			// The driver has looked; where it can tell, its word is checked once more.
			sight, err := instance.Runtime.State(ctx)
			if err != nil {
				return err
			}
			if sight.State == model.IsFrozen || sight.State == model.IsRunning {
				return fmt.Errorf("the instance is still %s", sight.State)
			}
			w.down = true
		}
		return w.keepDown(ctx, j, instance)
	})
	if err != nil {
		return err
	}
	switch {
	case ran != "":
		return w.fail(j, ran)
	case stale: // where the store is looked at, and a resume can be asked for meanwhile
		// It was seen to be held as it was, so no earlier life has
		// brought it down: who ends it from here on is somebody else.
		if up = up && !w.begun; up {
			w.mayBeDown = false
		}
		return w.write(j, model.Acknowledged, journal.Change{Edit: func(j *model.Job) {
			if up {
				delete(j.Entered, model.Releasing)
			}
		}})
	}
	// Before anybody is told: should the journal be lost later, its
	// note must not let a released instance run again.
	if err := w.persist(hard, j, "forget that the instance was held", func(context.Context) error { return w.unmark(j) }); err != nil {
		return err
	}
	w.unclaim(hard, j)
	return w.write(j, model.Released, journal.Change{
		Edit: func(j *model.Job) { j.EndHold(w.m.opts.Now(), w.m.journal.Up()) },
		Emit: w.m.event(model.EventReleased),
	})
}
