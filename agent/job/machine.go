package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// releasePanics is how many panics let a release fail.
const releasePanics = 3

// run advances the job until it is over, or soft or hard end: soft
// asks for no new work, hard for unfinishable work to be put off.
func (w *worker) run(soft, hard context.Context) {
	work, cancel := context.WithCancelCause(hard)
	defer cancel(nil)
	defer w.m.parts.Backuper.Over(hard, w.id) // also when the agent stops
	w.mu.Lock()
	w.cancel = cancel
	w.mu.Unlock()
	for pause := firstPause; ; {
		// Requests of others are in the journal before
		// they signal, so each step begins by reading it.
		j, err := w.m.journal.Job(w.id)
		if err == nil {
			if j.State.Final() {
				return
			}
			err = contain.Call(func() error { return w.advance(soft, hard, work, j) })
			if contain.Of(err) != nil {
				err = w.panicked(j, err)
			}
		}
		switch {
		case err == nil:
			pause = firstPause
			continue
		case errors.Is(err, errLeave), errors.Is(err, model.ErrNotFound):
			return
		}
		// Only the journal fails here (a full disk, mostly), or a job that is
		// being undone panics. Without the journal nothing may be done, not
		// even undone, so the step is tried again: every act can be done twice.
		instance := ""
		if j != nil {
			instance = j.Instance
		}
		if contain.Of(err) == nil { // panicked has told of the others
			w.m.parts.Observer.Trouble(instance, w.id, "write the journal", err)
		}
		w.checked()
		if sleep(soft, pause) != nil {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

func (w *worker) advance(soft, hard, work context.Context, j *model.Job) error {
	if w.m.opts.RecoverOnly && !j.CancelAsked && (j.State.Unstored() || j.State == model.Restoring) {
		w.checked()
		w.resumed = false
		return w.write(j, model.Suspending, journal.Change{})
	}
	if w.resumed && j.State.Unstored() {
		if j.StandsStill() && w.hold == nil {
			w.hold = w.m.holds.take(w.place) // it holds the instance as it is
		}
		return w.resume(work, hard, j)
	}
	w.checked()
	if w.resumed {
		w.mayBeDown = !j.Entered[model.Releasing].IsZero()
		w.resumed = false
	}
	if j.CancelAsked && j.Undoable() && j.State != model.Suspending {
		return w.fail(j, errCancelled.Error())
	}
	if !j.Undoable() && j.State != model.Placing {
		w.ticket.leave() // from here on the job only waits, or is quick
		if j.State != model.Failing {
			w.hold.leave()
		}
	}
	switch j.State {
	case model.Accepted:
		return w.begin(soft, work, j)
	case model.Precopying, model.Freezing, model.Frozen, model.Snapshotting, model.Snapshotted, model.Uploading:
		ctx, cancel := w.deadlines(work, j)
		defer cancel()
		return w.secure(ctx, j)
	case model.Restoring:
		ctx, cancel := w.deadlines(work, j)
		defer cancel()
		return w.restore(ctx, j)
	case model.Placing:
		return w.putInPlace(hard, j)
	case model.Restored:
		return w.settle(j)
	case model.Starting:
		return w.start(hard, j)
	case model.Stored:
		return w.completed(hard, j)
	case model.Reported, model.Held, model.Acknowledged:
		return w.await(soft, hard, j)
	case model.Releasing:
		return w.release(hard, j)
	case model.Released, model.Resuming, model.Ending, model.Suspending, model.Failing:
		return w.letGo(hard, j)
	case model.Done, model.Failed:
	}
	return errLeave
}

// panicked fails a job in which the program itself has failed: another try would most likely
// fail in the same way, now or after a restart. A job that is being undone already has no other
// way out, so it is tried again after a pause, and the error comes back. So is a release, some
// times: the instance may be down by now, and then nothing but the report is left to do.
func (w *worker) panicked(j *model.Job, err error) error {
	w.trouble(j, "do the work of the state "+string(j.State), err)
	w.checked()
	w.resumed = false
	w.panics++
	if !j.State.LeadsTo(model.Failing) || j.State == model.Releasing && w.panics < releasePanics {
		return err
	}
	return contain.Call(func() error { return w.fail(j, fmt.Sprintf("%v, in the state %s", err, j.State)) })
}

// begin waits for the job's turn and journals the intent of the
// first thing that is done to the host.
func (w *worker) begin(soft, work context.Context, j *model.Job) error {
	if w.m.opts.RecoverOnly {
		return errLeave
	}
	ctx, cancel := w.deadlines(work, j)
	defer cancel()
	ctx, drained := context.WithCancelCause(ctx)
	defer drained(nil)
	defer context.AfterFunc(soft, func() { drained(errDrained) })()
	if err := w.ticket.wait(ctx); err != nil || soft.Err() != nil {
		if err == nil || errors.Is(err, errDrained) {
			return errLeave
		}
		return w.fail(j, fmt.Sprintf("%v, while waiting for its turn", err))
	}
	w.proved = w.m.opts.Now() // all that the backup rests on is looked at from here on
	var next model.State
	var c journal.Change
	err := restForStore(ctx, j)
	if err == nil {
		next, c, err = w.first(ctx, j)
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errDrained) {
			return errLeave
		}
		if contain.Of(err) != nil {
			w.trouble(j, "begin", err)
		}
		return w.fail(j, err.Error())
	}
	switch {
	case next == model.Done:
		c.Emit = w.m.event(model.EventRestoreCompleted)
	case j.Attempts == 0 && j.IsRestore():
		c.Emit = w.m.event(model.EventRestoreStarted)
	case j.Attempts == 0:
		c.Emit = w.m.event(model.EventStarted)
	}
	return w.write(j, next, c)
}

// first decides the first act on the host: a round of pre-copy,
// the hold, the snapshots of a live backup, or a restore.
func (w *worker) first(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	if j.IsRestore() {
		return w.toRestore(ctx, j)
	}
	instance, sight, err := w.found(ctx, j)
	if err != nil {
		return "", journal.Change{}, err
	}
	found := sight.State
	if err := w.m.parts.Backuper.Look(ctx, j.Instance, j.Tenant); err != nil {
		return "", journal.Change{}, err
	}
	if err := w.recallContent(ctx, j); err != nil {
		return "", journal.Change{}, err
	}
	w.m.dropBases(ctx) // before this job takes more space
	// Rounds are of no use to an instance that does not write, or that nothing holds.
	rounds := j.Mode.Precopies() && w.m.opts.Precopy.Rounds > 0 && found != model.IsStopped && instance.Holds
	if j.Mode != model.ModeLive && !rounds {
		return w.toHold(ctx, j)
	}
	name := lastName(j)
	if j.Mode != model.ModeLive {
		name = roundName(j, 0)
	}
	planned, err := instance.Snapshots.Plan(ctx, name)
	if err != nil {
		return "", journal.Change{}, fmt.Errorf("plan the snapshots: %w", err)
	}
	round := ofRound(planned)
	switch {
	case j.Mode == model.ModeLive && slices.ContainsFunc(planned, func(s model.Snapshot) bool { return !s.Live }):
		return "", journal.Change{}, errors.New("a backup of a running instance needs snapshots, and the storage of one of its volumes can't make any")
	case j.Mode == model.ModeLive:
		return model.Snapshotting, journal.Change{Edit: func(j *model.Job) { j.Found, j.Snapshots, j.Kept = found, planned, instance.Keep }}, nil
	case len(round) == 0:
		return w.toHold(ctx, j)
	}
	return model.Precopying, journal.Change{Edit: func(j *model.Job) { j.Snapshots, j.Rounds, j.Kept = round, nil, instance.Keep }}, nil
}

// completed signs the receipt of a stored backup and puts the report into the outbox.
func (w *worker) completed(hard context.Context, j *model.Job) error {
	marked := w.markVolumes(hard, j)
	if j.ResumeAsked {
		return w.write(j, model.Resuming, journal.Change{Edit: marked})
	}
	if lost, err := w.lost(hard, j); lost != "" || err != nil {
		if err != nil {
			return err
		}
		return w.write(j, model.Failing, journal.Change{Edit: func(j *model.Job) { marked(j); j.Cause = lost }})
	}
	var receipt json.RawMessage
	resumed := false
	err := w.persist(hard, j, "sign the receipt", func(ctx context.Context) error {
		if now, err := w.m.journal.Job(j.ID); err == nil && now.ResumeAsked {
			// a key that can't be used must not hold an instance that is to run again
			resumed = true
			return nil
		}
		return w.act(crashpoint.Sign, func() (err error) {
			receipt, err = w.m.parts.Signer.Receipt(ctx, j)
			return err
		})
	})
	if err != nil || resumed {
		return err
	}
	d := w.m.eventData(j)
	d.Receipt, d.Volumes = receipt, volumesRead(j)
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return w.write(j, model.Reported, journal.Change{
		Edit: func(j *model.Job) { marked(j); j.CompletedReport = body },
		Emit: completedEvent,
	})
}

func completedEvent(j *model.Job) (model.Event, error) {
	return model.Event{Type: model.EventCompleted, Data: j.CompletedReport}, nil
}

// await waits for the control plane, or takes the way that it has named.
func (w *worker) await(soft, hard context.Context, j *model.Job) error {
	switch {
	case j.ResumeAsked && j.Gone != "":
		return w.fail(j, j.Gone+"; the instance runs again, as was asked")
	case j.ResumeAsked:
		return w.write(j, model.Resuming, journal.Change{})
	case j.State == model.Held && j.ReleaseAsked && j.Gone != "":
		return w.regained(soft, hard, j)
	case j.State == model.Held && j.ReleaseAsked:
		return w.write(j, model.Reported, journal.Change{Edit: func(j *model.Job) { j.Cause = "" }, Emit: completedEvent})
	case j.State == model.Acknowledged && j.Mode == model.ModeLive:
		return w.write(j, model.Ending, journal.Change{})
	case j.State == model.Acknowledged && j.MayGoDown():
		if soft.Err() != nil {
			return errLeave
		}
		if ok, err := w.settleFork(soft, hard, j); !ok || err != nil {
			return err
		}
		lost, err := w.lost(hard, j)
		if err != nil {
			return err
		}
		switch {
		case lost != "" && w.mayBeDown: // by this job itself: release finds out
		case lost != "":
			return w.fail(j, lost)
		default:
			if ok, err := w.prove(soft, hard, j); !ok || err != nil {
				return err
			}
		}
		err = w.writeChecked(j, model.Releasing, mayRelease, journal.Change{})
		if errors.Is(err, errMayNotRelease) {
			return nil // changed since it was read: look again
		}
		return err
	}
	select {
	case <-w.signal:
		return nil
	case <-soft.Done():
		return errLeave
	}
}
