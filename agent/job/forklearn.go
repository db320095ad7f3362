package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// A fork is decided once, on any host. The journal of each host that made a backup of
// the fork has to learn of the decision: the release of an instance waits for it, and
// people are told of the fork until then.

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

// LearnForks asks the vaults about the forks of which this host knows no decision: of unfinished
// jobs, and of the last backups of instances. A job that waits for the decision goes on. One
// instance of which the vault can't be asked does not keep the others from being asked.
func (m *Manager) LearnForks(ctx context.Context, instances []string) (failed error) {
	forker, ok := m.parts.Backuper.(Forker)
	if !ok {
		return nil
	}
	for _, id := range instances {
		active, latest, err := m.journal.ByInstance(id)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, j := range []*model.Job{active, latest} {
			if j == nil || !j.ForkOpen() || j == latest && active != nil && active.ID == latest.ID {
				continue
			}
			var d model.ForkDecision
			err := contain.Call(func() (err error) { d, err = forker.Decided(ctx, j); return err })
			if err == nil && d.Backup != "" {
				err = m.learnFork(j, d)
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("look whether the fork of instance %s is decided: %w", id, err))
			}
		}
	}
	return failed
}

// learnFork journals the decision that counts for the fork of a job, which the vault has, and wakes
// the job. A decision that a command left in the journal meanwhile, and that the vault does not
// have, gives way, and is named.
func (m *Manager) learnFork(j *model.Job, d model.ForkDecision) error {
	now, err := m.journal.Job(j.ID)
	if err != nil {
		return err
	}
	if asked := now.Fork; !asked.Stored && asked.Backup != "" && asked.Backup != d.Backup {
		d.Asked = asked.Backup
	}
	d.Stored = true
	if err := m.journal.DecideFork(j.ID, d); err != nil {
		return err
	}
	m.signal(j.ID)
	return nil
}

// forkStands looks, right before the release, whether the decision that the journal has is still
// the decision that counts. Two hosts may decide at one moment: a host that puts its decision after
// the look of this host, and dies before it withdraws the decision, leaves a decision that may
// count more. ok is false where the vault did not answer, or where the journal learnt of another
// decision.
func (w *worker) forkStands(soft, hard context.Context, j *model.Job) (ok bool, err error) {
	forker, is := w.m.parts.Backuper.(Forker)
	if !is {
		return true, nil
	}
	ctx, cancel := context.WithTimeoutCause(hard, actTimeout, fmt.Errorf("the store did not answer within %s", actTimeout))
	defer cancel()
	var d model.ForkDecision
	err = contain.Call(func() (err error) { d, err = forker.Decided(ctx, j); return err })
	switch {
	case contain.Of(err) != nil:
		return false, err
	case err != nil && soft.Err() != nil:
		return false, errLeave
	case err != nil:
		return w.waitForFork(soft, j, "look whether the decision about the fork still counts", err)
	case d.Backup == "" || d.Backup == j.Fork.Backup:
		return true, nil
	}
	d.Asked = j.Fork.Backup
	return false, w.m.learnFork(j, d)
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
