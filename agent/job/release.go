package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/internal/crashpoint"
)

type checkFunc = func(tx *bbolt.Tx, job *Job) error

// errMayNotRelease says that the journal does not have all that a power-down rests on.
var errMayNotRelease = errors.New("the journal does not allow a release")

// Looks at an instance that seems to run while it is being released, before that is believed: a
// runtime that lets go of the freezer to deliver the kill shows it as running for a moment.
const (
	releaseLooks = 5
	releaseLook  = time.Second
)

// mayRelease is the gate of every power-down.
//
// Invariant release-last: an instance is powered down only after its manifest is durable, was read
// back and matches, the report was acknowledged, and all of that is in the journal.
func mayRelease(tx *bbolt.Tx, j *Job) error {
	no := func(why string) error { return fmt.Errorf("job %s: %s: %w", j.ID, why, errMayNotRelease) }
	switch {
	case j.IsRestore():
		return no("it is a restore")
	case j.State != Acknowledged && j.State != Releasing:
		return no("it is " + string(j.State))
	case j.Result.complete() != nil:
		return no("no verified backup is journalled")
	case j.Entered[Stored].IsZero() || j.Entered[Reported].IsZero() || j.Entered[Acknowledged].IsZero():
		return no("a state is missing on its way")
	case j.ReportSeq == 0 || j.AcknowledgedAt.IsZero():
		return no("the report was not acknowledged")
	case tx.Bucket(bucketOutbox).Get(outboxKey(j.ReportSeq)) != nil:
		return no("the report is still in the outbox")
	case j.Gone != "":
		return no("the store lacks a part of the backup")
	case !j.Hold:
		return no("the instance was let go of since it was backed up")
	case j.ResumeAsked:
		return no("the instance is to run again")
	case j.Policy != ReleaseByAgent && !j.ReleaseAsked:
		return no("the control plane has not asked for it")
	}
	return nil
}

// powerDown is the only caller of Runtime.PowerDown. errUnproved where the store has to be looked at first.
func (w *worker) powerDown(ctx context.Context, instance Instance) error {
	if !w.proofHolds(max(w.m.opts.ProofAge, actTimeout)) {
		return errUnproved
	}
	err := w.m.journal.db.View(func(tx *bbolt.Tx) error {
		j, err := getJob(tx, w.id)
		if err != nil {
			return err
		}
		if j.State != Releasing {
			return fmt.Errorf("job %s: the intent is not journalled: %w", j.ID, errMayNotRelease)
		}
		return mayRelease(tx, j)
	})
	if err != nil {
		return err
	}
	w.mayBeDown = true // whatever comes of it
	return w.act(crashpoint.PowerDown, func() error { return instance.Runtime.PowerDown(ctx) })
}

// release powers the instance down and journals that it was seen to be down.
//
// Invariant nothing-lost: only an instance that has not run since its snapshot is powered down. One
// that runs (someone else resumed it, or the host rebooted and the runtime restarted it) has newer
// bytes than the backup, and keeps running; the job fails and says so. One that was frozen and is down without this agent's
// doing was ended by a runtime that let it run for that, and may have newer bytes too.
func (w *worker) release(hard context.Context, j *Job) error {
	runs, stale := "", false
	err := w.persist(hard, j, "power the instance down", func(ctx context.Context) error {
		instance, err := w.instance(j)
		if err != nil {
			return err
		}
		for look := 1; ; look++ {
			state, err := instance.Runtime.State(ctx)
			if err != nil {
				return err
			}
			if state == IsStopped && w.heldBy(j, state) == "" { // as it was found, or as this job stopped it: no power-down follows
				stale = !w.proofHolds(max(w.m.opts.ProofAge, actTimeout))
				return nil
			}
			if (state == IsStopped || state == IsMissing) && w.mayBeDown && j.BootID == w.m.opts.BootID {
				return nil
			}
			if runs = w.heldBy(j, state); runs == "" {
				break
			}
			if look == releaseLooks {
				return nil
			}
			if err := sleep(ctx, releaseLook); err != nil {
				return err
			}
		}
		if err := w.powerDown(ctx, instance); errors.Is(err, errUnproved) {
			stale = true
			return nil
		} else if err != nil {
			return err
		}
		// The driver has looked; where it can tell, its word is checked once more.
		state, err := instance.Runtime.State(ctx)
		if err != nil {
			return err
		}
		if state == IsFrozen || state == IsRunning {
			return fmt.Errorf("the instance is still %s", state)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case runs != "":
		return w.fail(j, runs)
	case stale: // where the store is looked at, and a resume can be asked for meanwhile
		return w.write(j, Acknowledged, change{})
	}
	// Before anybody is told: should the journal be lost later, its note must not let a released instance run again.
	if err := w.persist(hard, j, "forget that the instance was held", func(context.Context) error { return w.unmark(j) }); err != nil {
		return err
	}
	return w.write(j, Released, change{
		edit: func(j *Job) { j.let(w.m.opts.Now(), w.m.journal.Up()) },
		emit: w.m.event(EventReleased),
	})
}

// heldBy tells why the instance is not held by the job any more; empty when it is.
func (w *worker) heldBy(j *Job, state RuntimeState) string {
	switch {
	case j.Mode == ModeLive:
		return "" // it never was, and is not released
	case state == IsFrozen && j.Mode != ModeStop:
		return ""
	case state == IsUnknown && j.BootID == w.m.opts.BootID:
		return ""
	case state == IsUnknown:
		return "the host was restarted since the instance was frozen"
	case state == IsStopped && (j.Found == IsStopped || j.Mode == ModeStop):
		return ""
	}
	return fmt.Sprintf("the instance is %s although this job holds it: someone else changed that, or the host was restarted; "+
		"it was not powered down by this agent", state)
}

func (w *worker) stillHeld(ctx context.Context, j *Job, instance Instance) error {
	state, err := instance.Runtime.State(ctx)
	if err != nil {
		return err
	}
	if why := w.heldBy(j, state); why != "" {
		return errors.New(why)
	}
	return nil
}

// lost looks until the runtime answers, and tells why the instance is not held any more.
func (w *worker) lost(hard context.Context, j *Job) (why string, err error) {
	err = w.persist(hard, j, "look at the instance", func(ctx context.Context) error {
		instance, err := w.instance(j)
		if err != nil {
			return err
		}
		state, err := instance.Runtime.State(ctx)
		if err != nil {
			return err
		}
		why = w.heldBy(j, state)
		return nil
	})
	return why, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
