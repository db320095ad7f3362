package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/internal/crashpoint"
)

// errLeave ends a worker with its job unfinished; the journal has what the next Run needs.
var errLeave = errors.New("left in the journal")

// worker takes one job from where the journal says it is to its end. It is one goroutine.
type worker struct {
	m       *Manager
	id      string
	signal  chan struct{} // 1 token: the journal's record was changed by someone else
	ticket  *ticket
	resumed bool   // the job comes from an earlier life; its true state is not known yet
	checked func() // call once the true state is known, or can't be

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the work; nil before run

	progress atomic.Pointer[Progress]
	report   progressReport
}

// interrupt ends what the worker does, unless the backup is stored already.
func (w *worker) interrupt(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel(cause)
	}
}

// run advances the job until it is over, or soft or hard end: soft asks for no new work, hard for
// what can't be finished to be put off.
func (w *worker) run(soft, hard context.Context) {
	work, cancel := context.WithCancelCause(hard)
	defer cancel(nil)
	w.mu.Lock()
	w.cancel = cancel
	w.mu.Unlock()
	for pause := firstPause; ; {
		// What others ask for is in the journal before they signal, so each step begins by reading it.
		j, err := w.m.journal.Job(w.id)
		if err == nil {
			if j.State.Final() {
				return
			}
			err = w.advance(soft, hard, work, j)
		}
		switch {
		case err == nil:
			pause = firstPause
			continue
		case errors.Is(err, errLeave), errors.Is(err, ErrNotFound):
			return
		}
		// Only the journal fails here (a full disk, mostly). Without it nothing may be done, not even
		// undone, so the step is tried again: every act can be done twice.
		instance := ""
		if j != nil {
			instance = j.Instance
		}
		w.m.parts.Observer.Trouble(instance, w.id, "write the journal", err)
		w.checked()
		if sleep(soft, pause) != nil {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

func (w *worker) advance(soft, hard, work context.Context, j *Job) error {
	if w.resumed && j.State.unstored() {
		return w.resume(work, hard, j)
	}
	w.checked()
	w.resumed = false
	if j.CancelAsked && (j.State == Accepted || j.State.unstored()) {
		return w.fail(j, errCancelled.Error())
	}
	if !j.State.unstored() && j.State != Accepted && j.State != Suspending {
		w.ticket.leave() // from here on the job only waits, or is quick
	}
	switch j.State {
	case Accepted:
		return w.begin(soft, work, j)
	case Freezing, Frozen, Snapshotting, Snapshotted, Uploading:
		ctx, cancel := w.deadlines(work, j)
		defer cancel()
		return w.secure(ctx, j)
	case Stored:
		return w.completed(hard, j)
	case Reported, Held, Acknowledged:
		return w.await(soft, hard, j)
	case Releasing:
		return w.release(hard, j)
	case Released, Resuming, Suspending, Failing:
		return w.letGo(hard, j)
	case Done, Failed:
	}
	return errLeave
}

// write journals the next state and tells everybody.
func (w *worker) write(j *Job, to State, c change) error {
	return w.writeChecked(j, to, nil, c)
}

func (w *worker) writeChecked(j *Job, to State, check checkFunc, c change) error {
	point := "job.write-" + string(to)
	w.m.hit(point + crashpoint.Before)
	got, from, err := w.m.journal.step(j.ID, to, w.m.opts.Now(), check, c)
	if err != nil {
		return err
	}
	w.m.hit(point + crashpoint.After)
	w.m.changed(got, from)
	if to.Final() {
		return w.m.prune()
	}
	return nil
}

// act brackets something done to the host with its crash points.
func (w *worker) act(name string, do func() error) error {
	w.m.hit(name + crashpoint.Before)
	err := do()
	w.m.hit(name + crashpoint.After)
	return err
}

// deadlines bounds the work of a job whose backup is not stored yet.
func (w *worker) deadlines(ctx context.Context, j *Job) (context.Context, context.CancelFunc) {
	now, o := w.m.opts.Now(), w.m.opts
	cancels := []context.CancelFunc{}
	add := func(limit time.Duration, since time.Time, cause error) {
		if limit <= 0 || since.IsZero() {
			return
		}
		left := limit - max(0, now.Sub(since)) // a clock set back must not lengthen the time beyond one limit
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, fmt.Errorf("%w (%s)", cause, limit))
		cancels = append(cancels, cancel)
	}
	add(o.JobDeadline, j.AcceptedAt, errJobDeadline)
	if j.Hold {
		add(o.FrozenDeadline, j.HeldSince, errFrozenDeadline)
	}
	return ctx, func() {
		for _, cancel := range cancels {
			cancel()
		}
	}
}

// fail journals why the job is undone.
func (w *worker) fail(j *Job, cause string) error {
	return w.write(j, Failing, change{edit: func(j *Job) { j.Cause = cause }})
}

// giveUp decides what an error in the middle of the work means: put off when the agent goes down, else undone.
func (w *worker) giveUp(ctx context.Context, j *Job, doing string, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return w.fail(j, fmt.Sprintf("%s: %v", doing, err))
	case errors.Is(cause, errDrained):
		return w.write(j, Suspending, change{})
	case err == cause: //nolint:errorlint // one that wraps the cause has more to say
		return w.fail(j, fmt.Sprintf("%v, during: %s", cause, doing))
	}
	return w.fail(j, fmt.Sprintf("%v, during: %s: %v", cause, doing, err))
}

// begin waits for the job's turn and journals the intent to freeze.
func (w *worker) begin(soft, work context.Context, j *Job) error {
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
	instance, err := w.m.parts.Instance(j.Instance)
	if err != nil {
		return w.fail(j, fmt.Sprintf("look for the instance: %v", err))
	}
	found, err := instance.Runtime.State(ctx)
	if err != nil {
		if errors.Is(context.Cause(ctx), errDrained) {
			return errLeave
		}
		return w.fail(j, fmt.Sprintf("look at the instance: %v", err))
	}
	switch found {
	case IsRunning, IsStopped, IsUnknown:
	case IsFrozen:
		return w.fail(j, "the instance is frozen already, and not by this agent")
	default:
		return w.fail(j, fmt.Sprintf("the runtime says that the instance is %s", found))
	}
	c := change{edit: func(j *Job) {
		j.Found, j.Hold, j.BootID = found, true, w.m.opts.BootID
		j.HeldSince, j.HeldUntil = time.Time{}, time.Time{}
		if instance.Holds {
			j.HeldSince = w.m.opts.Now().UTC()
		}
	}}
	if j.Attempts == 0 {
		c.emit = w.m.event(EventStarted)
	}
	return w.write(j, Freezing, c)
}

// secure does the next step from freezing to a stored backup. An error of an act ends the job or puts
// it off; what is returned is of the journal.
func (w *worker) secure(ctx context.Context, j *Job) error {
	doing, err := "begin", context.Cause(ctx)
	var next State
	var c change
	if err == nil {
		switch j.State {
		case Freezing:
			doing = "freeze the instance"
			next, c, err = w.freeze(ctx, j)
		case Frozen:
			doing = "plan the snapshots"
			next, c, err = w.plan(ctx, j)
		case Snapshotting:
			doing = "make a snapshot"
			next, c, err = w.snapshot(ctx, j)
		case Snapshotted:
			next = Uploading
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
func notCancelled(_ *bbolt.Tx, j *Job) error {
	if j.CancelAsked {
		return errCancelled
	}
	return nil
}

func (w *worker) freeze(ctx context.Context, j *Job) (State, change, error) {
	instance, err := w.m.parts.Instance(j.Instance)
	if err != nil {
		return "", change{}, err
	}
	state, err := instance.Runtime.State(ctx)
	if err != nil {
		return "", change{}, err
	}
	if state != IsStopped || j.Found != IsStopped {
		err := w.act(crashpoint.Freeze, func() error { return instance.Runtime.Freeze(ctx) })
		if err != nil {
			return "", change{}, err
		}
	}
	if err := w.stillHeld(ctx, j, instance); err != nil {
		return "", change{}, err
	}
	return Frozen, change{}, nil
}

func (w *worker) plan(ctx context.Context, j *Job) (State, change, error) {
	instance, err := w.m.parts.Instance(j.Instance)
	if err != nil {
		return "", change{}, err
	}
	planned, err := instance.Snapshots.Plan(ctx, j.ID)
	if err != nil {
		return "", change{}, err
	}
	return Snapshotting, change{edit: func(j *Job) { j.Snapshots = planned }}, nil
}

func (w *worker) snapshot(ctx context.Context, j *Job) (State, change, error) {
	instance, err := w.m.parts.Instance(j.Instance)
	if err != nil {
		return "", change{}, err
	}
	made := make([]Snapshot, len(j.Snapshots))
	for i, planned := range j.Snapshots {
		// An earlier life may have made it, in whole or in part; when it did is not known, so it goes.
		if err := instance.Snapshots.Remove(ctx, planned.Ref); err != nil {
			return "", change{}, err
		}
		err := w.act(crashpoint.Snapshot, func() error {
			made[i], err = instance.Snapshots.Create(ctx, j.ID, planned)
			return err
		})
		if err != nil {
			return "", change{}, fmt.Errorf("volume %q: %w", planned.Name, err)
		}
	}
	return Snapshotted, change{edit: func(j *Job) { j.Snapshots = made }}, nil
}

func (w *worker) upload(ctx context.Context, j *Job) (State, change, error) {
	packs, err := w.m.journal.packs(j.ID)
	if err != nil {
		return "", change{}, err
	}
	r := BackupRequest{
		Job: j.ID, Task: j.Task, Instance: j.Instance, Tenant: j.Tenant, Resume: packs,
		PackIntent: func(pack string) error {
			return w.act(crashpoint.WritePack, func() error { return w.m.journal.addPack(j.ID, pack) })
		},
		Progress: func(p Progress) { w.progressed(j, p) },
	}
	for _, s := range j.Snapshots {
		r.Sources = append(r.Sources, Source{Volume: s.Name, Root: s.Root})
	}
	var result *Result
	err = w.act(crashpoint.Upload, func() error {
		result, err = w.m.parts.Backuper.Backup(ctx, r)
		return err
	})
	if err != nil {
		return "", change{}, err
	}
	if err := result.complete(); err != nil {
		return "", change{}, err
	}
	return Stored, change{edit: func(j *Job) { j.Result = result }}, nil
}

// complete tells whether the result says all that a release rests on.
func (r *Result) complete() error {
	if r == nil || r.BackupID == "" || r.Object == "" || r.ManifestSHA256 == "" || r.Verified.IsZero() {
		return errors.New("the backup engine did not say that the manifest was stored and verified")
	}
	return nil
}

// completed signs the receipt of a stored backup and puts the report into the outbox.
func (w *worker) completed(hard context.Context, j *Job) error {
	if j.ResumeAsked {
		return w.write(j, Resuming, change{})
	}
	if lost, err := w.lost(hard, j); lost != "" || err != nil {
		if err != nil {
			return err
		}
		return w.fail(j, lost)
	}
	var receipt json.RawMessage
	err := w.persist(hard, j, "sign the receipt", func(ctx context.Context) error {
		return w.act(crashpoint.Sign, func() (err error) {
			receipt, err = w.m.parts.Signer.Receipt(ctx, j)
			return err
		})
	})
	if err != nil {
		return err
	}
	d := w.m.eventData(j)
	d.Receipt = receipt
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return w.write(j, Reported, change{
		edit: func(j *Job) { j.CompletedReport = body },
		emit: completedEvent,
	})
}

func completedEvent(j *Job) (Event, error) {
	return Event{Type: EventCompleted, Data: j.CompletedReport}, nil
}

// await waits for the control plane, or takes the way that it has named.
func (w *worker) await(soft, hard context.Context, j *Job) error {
	switch {
	case j.ResumeAsked:
		return w.write(j, Resuming, change{})
	case j.State == Held && j.ReleaseAsked:
		return w.write(j, Reported, change{edit: func(j *Job) { j.Cause = "" }, emit: completedEvent})
	case j.State == Acknowledged && (j.Policy == ReleaseByAgent || j.ReleaseAsked):
		if soft.Err() != nil {
			return errLeave
		}
		lost, err := w.lost(hard, j)
		if err != nil {
			return err
		}
		if lost != "" {
			return w.fail(j, lost)
		}
		err = w.writeChecked(j, Releasing, mayRelease, change{})
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

// persist tries until it works, with growing pauses, for a way on that has no other way out. It gives
// up with errLeave when hard ends, after three more tries, as the host may be going down.
func (w *worker) persist(hard context.Context, j *Job, doing string, try func(ctx context.Context) error) error {
	pause, last := firstPause, 3
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(hard), actTimeout)
		err := try(ctx)
		cancel()
		if err == nil {
			return nil
		}
		w.m.parts.Observer.Trouble(j.Instance, j.ID, doing, err)
		w.checked()
		if hard.Err() != nil {
			if last--; last < 0 {
				return errLeave
			}
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-hard.Done():
			time.Sleep(firstPause / 10)
		}
		pause = min(2*pause, lastPause)
	}
}
