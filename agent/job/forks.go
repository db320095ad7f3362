package job

import (
	"context"
	"fmt"

	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// A fork is a backup that does not descend from all newest backups of its
// instance: another host made one of them, and each lacks content of the
// other. A person or the control plane decides which of them continues the
// instance. Until then the instance is held, with its bytes on the host.

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
