package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/contain"
)

// A fork is a backup that does not descend from all newest backups of its
// instance: another host made one of them, and each lacks content of the
// other. A person or the control plane decides which of them continues the
// instance. Until then the instance is held, with its bytes on the host.

// OnFork says what becomes of a fork of which nobody has decided.
type OnFork string

// The ways to treat a fork.
const (
	ForkHold    OnFork = "hold"    // the release waits for a decision
	ForkRelease OnFork = "release" // the backup of this host is accepted, and the release follows
)

// Forker stores decisions about forks. A Backuper that is no Forker makes no forks.
type Forker interface {
	// AcceptFork stores the decision about the fork of the job's backup in the vault, and returns
	// the decision that counts: d, or the first one that was made, unless d is made again. Done
	// twice it is no error.
	AcceptFork(ctx context.Context, j *model.Job, d model.ForkDecision) (model.ForkDecision, error)
	// Decided returns the decision that has ended the fork of the job's
	// backup, whichever host made it; zero while nobody has decided.
	Decided(ctx context.Context, j *model.Job) (model.ForkDecision, error)
}

// ForkDecidedError says that a fork was decided before, for another backup.
type ForkDecidedError struct{ First model.ForkDecision }

func (e *ForkDecidedError) Error() string {
	return fmt.Sprintf("the fork is decided already: backup %s counts, by %s%s", e.First.Backup, e.First.By, e.First.Where())
}

// The words for the decider of a fork.
const (
	byRelease       = "the command that released the instance"
	byConfiguration = "on_fork: release in the configuration of the host"
)

// noteRelease notes the decision that lies in a command to release an instance: where
// the report that told of the fork is acknowledged, the commander knows of the fork.
func noteRelease(j *model.Job) {
	j.ReleaseAsked = true
	if j.State == model.Acknowledged && j.ForkUndecided() {
		j.Fork = model.ForkDecision{Backup: j.Result.BackupID, By: byRelease}
	}
}

// AcceptFork decides about the fork of the instance's stored backup: backup is the newest one, or
// with "" that stored backup. It comes for a job that waits, or for the last backup that was done.
// Done twice it is no error. ErrState where there is no fork to decide, and *ForkDecidedError
// where another backup was accepted before, unless it is to be decided again.
func (m *Manager) AcceptFork(ctx context.Context, instance, backup, by string, again bool) error {
	active, latest, err := m.journal.ByInstance(instance)
	if err != nil {
		return err
	}
	j := latest
	if active != nil && active.Result != nil {
		j = active
	}
	if j == nil || !j.Forked() {
		return fmt.Errorf("accept the fork of %q: its last backup makes no fork: %w", instance, model.ErrState)
	}
	d := model.ForkDecision{Backup: backup, By: by, Again: again}
	if backup == "" {
		d.Backup = j.Result.BackupID
	}
	forker, ok := m.parts.Backuper.(Forker)
	if !ok {
		return fmt.Errorf("accept the fork of %q: this agent stores no decisions: %w", instance, model.ErrState)
	}
	// At once, so that a backup which can't be accepted is refused to who names it.
	counts, err := forker.AcceptFork(ctx, j, d)
	if err != nil {
		return err
	}
	if counts.Backup != d.Backup {
		return &ForkDecidedError{counts}
	}
	return m.learnFork(j, counts)
}

// settleFork brings the fork of an acknowledged job to an end, so that the release can
// follow. ok is false where the job waits for a decision, or for the vault to have it.
func (w *worker) settleFork(soft, hard context.Context, j *model.Job) (ok bool, err error) {
	switch {
	case !j.Forked():
		return true, nil
	case !j.ForkOpen():
		return w.forkStands(soft, hard, j)
	case j.ForkUndecided() && w.m.opts.OnFork == ForkRelease:
		d := model.ForkDecision{Backup: j.Result.BackupID, By: byConfiguration}
		return false, w.m.journal.DecideFork(j.ID, d)
	case j.ForkUndecided():
		select {
		case <-w.signal:
			return false, nil
		case <-soft.Done():
			return false, errLeave
		}
	}
	forker, is := w.m.parts.Backuper.(Forker)
	if !is {
		return false, w.fail(j, "this agent stores no decisions about forks")
	}
	d, counts := j.Fork, model.ForkDecision{}
	ctx, cancel := context.WithTimeoutCause(hard, actTimeout, fmt.Errorf("the store did not answer within %s", actTimeout))
	defer cancel()
	err = contain.Call(func() error { counts, err = forker.AcceptFork(ctx, j, d); return err })
	switch {
	case err == nil:
		w.provePause = 0
		if counts.Backup != d.Backup {
			counts.Asked = d.Backup
		}
		return false, w.m.learnFork(j, counts)
	case contain.Of(err) != nil:
		return false, err
	case soft.Err() != nil:
		return false, errLeave
	}
	return w.waitForFork(soft, j, "store the decision about the fork in the vault", err)
}

// waitForFork tells of a vault that did not answer about a fork, and waits until the next try.
func (w *worker) waitForFork(soft context.Context, j *model.Job, doing string, err error) (ok bool, _ error) {
	w.m.parts.Observer.Trouble(j.Instance, j.ID, doing, err)
	w.provePause = min(max(firstPause, 2*w.provePause), lastPause)
	select {
	case <-time.After(w.provePause):
	case <-w.signal:
	case <-soft.Done():
	}
	return false, nil
}

// Chain has the backups of an instance, as one look at the vault found them, and the backups from
// which they came. It is for one goroutine.
type Chain interface {
	// Newest is as Restorer.Newest.
	Newest(ctx context.Context) (model.Content, error)
	// Relate tells how the newest backup relates to the backup that this host knows, and
	// which backup the host truly knows: a backup of known.Tried where the vault has it,
	// since this host made it of the volumes without hearing that it was stored. newest
	// is zero where the vault has none, or several; the relation is RelationNone then.
	Relate(known, newest model.Content) (prepare.Relation, model.Content)
}

// Chainer looks how the backups of an instance descend from each other. A Restorer that is none
// knows sequence numbers only.
type Chainer interface {
	Chain(ctx context.Context, instance, tenant string) (Chain, error)
}

// relateFacts completes the facts with the chain of the instance's
// backups; nil where there is none, and chainErr says why.
func (w *worker) relateFacts(f *prepare.Facts, chain Chain, chainErr error) error {
	if chain == nil && chainErr == nil || f.NewestErr != nil && !errors.Is(f.NewestErr, model.ErrNoBackup) {
		f.Relation = prepare.Relate(f.Known, f.Newest)
		return nil
	}
	if chainErr != nil {
		if f.Found == model.IsRunning {
			f.Relation = prepare.RelationNone // it is not restored in any case
			return nil
		}
		return fmt.Errorf("look from which backup the newest one came: %w", chainErr)
	}
	relation, known := chain.Relate(f.Known, f.Newest)
	if known.Backup != f.Known.Backup {
		for i := range f.Volumes {
			if v := &f.Volumes[i]; v.Backup.Backup == f.Known.Backup && v.Presence != prepare.VolumeMissing && v.Origin != prepare.OriginForeign {
				v.Backup = known
				// nothing proves that the present content is the backed-up content
				if v.Origin == prepare.OriginSame || v.Origin == prepare.OriginUnknown {
					v.Origin = prepare.OriginChanged
				}
			}
		}
	}
	f.Known, f.Relation = known, relation
	return nil
}
