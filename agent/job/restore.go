package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/crashpoint"
)

// RestoreRequest is the work of the engine for one restore.
type RestoreRequest struct {
	Instance, Tenant string
	Backup           string
	// Seq and Vault belong to the backup.
	Seq    uint64
	Vault  string
	Places []model.Place
	// Progress takes figures as they grow; it may be called from any goroutine.
	Progress func(model.Progress)
}

// Restorer brings the volumes of instances back. Its methods may be called from any goroutine.
type Restorer interface {
	Keeper
	// Look tells the state of each volume, in the order of the configuration. known is the backup
	// that the journal has of them. It changes nothing.
	Look(ctx context.Context, instance, tenant string, known model.Content) ([]prepare.VolumeFacts, error)
	// Newest names the newest backup; ErrNoBackup.
	Newest(ctx context.Context, instance, tenant string) (model.Content, error)
	// Mark puts the mark of the backup of a job on each folder or file that was backed up, at the
	// path that the journal has, and tells which volumes bear it. With an error the other ones do
	// not. Another folder that lies at the path by now gets no mark.
	Mark(ctx context.Context, j *model.Job, c model.Content) (marked map[string]bool, err error)
	// Backup names the backup of that id; ErrNoBackup.
	Backup(ctx context.Context, instance, tenant, id string) (model.Content, error)
	// Plan names the places of all volumes and changes nothing. An
	// error says why one can't be restored to its place.
	Plan(ctx context.Context, instance, job string) ([]model.Place, error)
	// Restore builds the tree of each place at its stage. It returns nil when all are
	// complete and durable, and the places then with Tree. When ctx ends it returns
	// soon, with nothing running. Discard removes the remains of a failed Restore.
	Restore(ctx context.Context, r RestoreRequest) (*model.RestoreResult, []model.Place, error)
	// Placed tells whether the restored tree is in its place.
	Placed(p model.Place) (bool, error)
	// Put puts it there, in one step; the old content
	// is at the stage then. Done twice it is no error.
	Put(p model.Place) error
	// Back undoes Put, in one step. Done twice it is no error.
	Back(p model.Place) error
	// Discard removes the content of the stage, and the remains of an interrupted Restore:
	// the tree Old where that is known, else Tree where that is. Nothing there is no error.
	Discard(p model.Place) error
}

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

// askVault is for how long the vault is asked about an instance that is not going to be restored.
const askVault = 10 * time.Second

// facts looks at the instance, its volumes, the journal and the vault. An instance that runs and
// has all of its volumes is ready, whether the store answers or not.
func (w *worker) facts(ctx context.Context, j *model.Job, instance Instance) (f prepare.Facts, err error) {
	restorer := w.m.parts.Restorer
	f = prepare.Facts{Holds: instance.Holds, Start: w.m.opts.StartRestored}
	if f.Found, err = w.user(ctx, j, instance); err != nil {
		return f, fmt.Errorf("look at the instance: %w", err)
	}
	if f.Known, err = w.m.journal.Content(j.Instance); err != nil {
		return f, fmt.Errorf("read the journal: %w", err)
	}
	if f.Volumes, err = restorer.Look(ctx, j.Instance, j.Tenant, f.Known); err != nil {
		return f, fmt.Errorf("look at the volumes: %w", err)
	}
	if f.Found == model.IsRunning {
		// The vault only adds a warning to a decision that is clear already.
		short, cancel := context.WithTimeout(ctx, askVault)
		defer cancel()
		ctx = short
	}
	return f, w.backupToRestore(ctx, j, &f)
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
		err = w.mayMove(ctx, j)
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
