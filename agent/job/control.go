package job

import (
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// Progress returns the last figures of a job that is uploading.
func (m *Manager) Progress(job string) (model.Progress, bool) {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w == nil {
		return model.Progress{}, false
	}
	p := w.progress.Load()
	if p == nil {
		return model.Progress{}, false
	}
	return *p, true
}

// Ahead counts the jobs that are to begin before this one, as
// things stand; 0 when it does not wait.
func (m *Manager) Ahead(job string) int {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w == nil {
		return 0
	}
	return m.slots.ahead(w.ticket)
}

// Full tells whether a command of one instance would be refused
// because as many jobs wait as the configuration allows.
func (m *Manager) Full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opts.Queue > 0 && len(m.waiting)+m.slots.waiting()-m.slots.idle() >= m.opts.Queue
}

// HoldTurns tells how many jobs wait for their turn to hold an instance, and how many
// turns were given so far: while jobs wait and that number stays, no job comes on.
func (m *Manager) HoldTurns() (waiting int, granted uint64) {
	m.holds.mu.Lock()
	defer m.holds.mu.Unlock()
	return len(m.holds.line), m.holds.granted
}

// OutboxChanged has a token whenever there may be something new to deliver.
func (m *Manager) OutboxChanged() <-chan struct{} { return m.outbox }

// Heads returns at most limit undelivered events, as Journal.Heads.
func (m *Manager) Heads(limit int, skip func(instance string) bool) ([]model.Event, error) {
	return m.journal.Heads(limit, skip)
}

// TakeProgress returns at most limit events with the progress of jobs, where it has
// changed, with Seq 0: each is sent once, or not at all, and an instance with an
// undelivered event has none. Instances that skip tells to leave out keep theirs.
func (m *Manager) TakeProgress(limit int, skip func(instance string) bool) (taken []model.Event, err error) {
	var progress []model.Event
	m.mu.Lock()
	for _, w := range m.running {
		if len(progress) < limit {
			if e := w.progressEvent(m.opts.Now(), skip); e != nil {
				progress = append(progress, *e)
			}
		}
	}
	m.mu.Unlock()
	// Only now: an event that is journalled in between takes the
	// place of progress, never the other way round.
	for _, e := range progress {
		waits, err := m.journal.Waits(e.Instance)
		if err != nil {
			return nil, err
		}
		if !waits {
			taken = append(taken, e)
		}
	}
	return taken, nil
}

// Acknowledge takes delivered events out of the outbox, in one
// transaction; the jobs that wait for them go on.
func (m *Manager) Acknowledge(seqs ...uint64) error {
	return m.settle(crashpoint.WriteAcknowledged, seqs, "")
}

// Refuse takes an event out of the outbox that the control plane will never take. It
// stays among the refused reports. If it reports a backup, its job is held: the
// instance stays frozen until Release or Resume is called, or the report is sent again.
func (m *Manager) Refuse(seq uint64, reason string) error {
	if reason == "" {
		reason = "no reason given"
	}
	return m.settle(crashpoint.WriteHeld, []uint64{seq}, "the control plane refused the report: "+reason)
}

func (m *Manager) settle(point string, seqs []uint64, refusal string) error {
	seqs = slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return seq == 0 })
	if len(seqs) == 0 {
		return nil
	}
	m.hit(point + crashpoint.Before)
	all, err := m.journal.Settle(seqs, refusal, m.opts.Now())
	if err != nil {
		return err
	}
	m.hit(point + crashpoint.After)
	wake(m.outbox)
	for _, one := range all {
		m.tell(one)
	}
	return nil
}

// Cancel asks for the job to be undone. A job whose backup is stored can't be:
// ErrState says to resume the instance instead; nor can a restore whose volumes
// get into their places. A job that is being undone is left alone, and so is a job
// that was cancelled before. ErrEnded when the job is over otherwise.
func (m *Manager) Cancel(id string) error {
	_, _, err := m.journal.Step(id, "", m.opts.Now(), func(j journal.Record) error {
		switch {
		case j.CancelAsked:
			return errNothingToDo
		case j.State.Final():
			return fmt.Errorf("cancel job %s: %w", id, ErrEnded)
		case j.State == model.Failing:
			return errNothingToDo
		case j.State == model.Unknown:
			return fmt.Errorf("cancel job %s: %s: %w", id, j.Cause, model.ErrState)
		case j.Undoable():
			return nil
		case j.IsRestore():
			return fmt.Errorf("cancel job %s, which is %s: the volumes are restored: %w", id, j.State, model.ErrState)
		}
		return fmt.Errorf("cancel job %s, which is %s: the backup is stored; resume the instance instead: %w", id, j.State, model.ErrState)
	}, journal.Change{Edit: func(j *model.Job) { j.CancelAsked = true }})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	w := m.running[id]
	m.mu.Unlock()
	if w != nil {
		w.interrupt(errCancelled)
	}
	return nil
}

// errNothingToDo ends a transaction that has nothing to change.
var errNothingToDo = errors.New("nothing to do")

// Release asks for the instance to be powered down. It is done when the report
// is acknowledged, not before; for a job that is held the report is sent
// again, or the store looked at again where the backup is gone. Done twice it
// is no error. ErrState when the instance has no stored backup that waits.
func (m *Manager) Release(instance string) error {
	return m.ask(instance, "release", func(j *model.Job) error {
		if j.ResumeAsked || !slices.Contains([]model.State{model.Stored, model.Reported, model.Held, model.Acknowledged, model.Releasing, model.Released}, j.State) {
			return model.ErrState
		}
		if j.ReleaseAsked && j.State != model.Held && (j.State != model.Acknowledged || !j.ForkUndecided()) {
			return errNothingToDo
		}
		return nil
	}, noteRelease)
}

// Resume asks for a frozen instance with a stored backup to run again; the backup stays. Done twice
// it is no error. ErrState when the instance is not held for a stored backup.
func (m *Manager) Resume(instance string) error {
	return m.ask(instance, "resume", func(j *model.Job) error {
		if j.ResumeAsked {
			return errNothingToDo
		}
		if !slices.Contains([]model.State{model.Stored, model.Reported, model.Held, model.Acknowledged}, j.State) {
			return model.ErrState
		}
		return nil
	}, func(j *model.Job) { j.ResumeAsked = true })
}

func (m *Manager) ask(instance, what string, check func(*model.Job) error, edit func(*model.Job)) error {
	active, _, err := m.journal.ByInstance(instance)
	if err != nil {
		return err
	}
	if active == nil {
		return fmt.Errorf("%s %q: it has no job that waits: %w", what, instance, model.ErrState)
	}
	_, _, err = m.journal.Step(active.ID, "", m.opts.Now(), func(j journal.Record) error {
		if err := check(j.Job); err != nil {
			if errors.Is(err, errNothingToDo) {
				return err
			}
			return fmt.Errorf("%s %q, whose job is %s: %w", what, instance, j.State, err)
		}
		return nil
	}, journal.Change{Edit: edit})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	if err != nil {
		return err
	}
	m.signal(active.ID)
	return nil
}
