package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/internal/crashpoint"
)

// Update is a change of a job for those who watch its task.
type Update struct {
	Job      Job
	Progress *Progress // set when the figures changed and not the state
}

// Watch sends what happens to the jobs of a task to the channel until stop is called. A watcher that does
// not keep up misses updates; the journal has the truth.
func (m *Manager) Watch(task string) (updates <-chan Update, stop func()) {
	c := make(chan Update, 64)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[c] = task
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, c)
	}
}

func (m *Manager) publish(u Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c, task := range m.watchers {
		if task == u.Job.Task {
			select {
			case c <- u:
			default:
			}
		}
	}
}

// changed tells everybody about a state that was journalled.
func (m *Manager) changed(j *Job, from State) {
	m.parts.Observer.Changed(j, from)
	m.publish(Update{Job: *j})
	wake(m.outbox)
}

// Progress returns the last figures of a job that is uploading.
func (m *Manager) Progress(job string) (Progress, bool) {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w == nil {
		return Progress{}, false
	}
	p := w.progress.Load()
	if p == nil {
		return Progress{}, false
	}
	return *p, true
}

// Ahead counts the jobs that are to begin before this one, as things stand; 0 when it does not wait.
func (m *Manager) Ahead(job string) int {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w == nil {
		return 0
	}
	return m.slots.ahead(w.ticket)
}

// signal wakes the worker of a job, if it has one.
func (m *Manager) signal(job string) {
	m.mu.Lock()
	w := m.running[job]
	m.mu.Unlock()
	if w != nil {
		wake(w.signal)
	}
}

// OutboxChanged has a token whenever there may be something new to deliver.
func (m *Manager) OutboxChanged() <-chan struct{} { return m.outbox }

// Heads returns the oldest undelivered event of each instance; for an instance with none, the
// progress of its job if that has changed, with Seq 0: it is sent once, or not at all.
func (m *Manager) Heads() ([]Event, error) {
	// Progress first: an event that is journalled in between takes its place, never the other way round.
	var progress []Event
	m.mu.Lock()
	for _, w := range m.running {
		if e := w.progressEvent(m.opts.Now()); e != nil {
			progress = append(progress, *e)
		}
	}
	m.mu.Unlock()
	heads, err := m.journal.Heads()
	if err != nil {
		return nil, err
	}
	for _, e := range progress {
		if !slices.ContainsFunc(heads, func(h Event) bool { return h.Instance == e.Instance }) {
			heads = append(heads, e)
		}
	}
	return heads, nil
}

// Acknowledge takes a delivered event out of the outbox; the job that waits for it goes on.
func (m *Manager) Acknowledge(seq uint64) error { return m.settle(seq, "") }

// Refuse takes an event out of the outbox that the control plane will never take. If it reports a
// backup, its job is held: the instance stays frozen until Release or Resume is called.
func (m *Manager) Refuse(seq uint64, reason string) error {
	if reason == "" {
		reason = "no reason given"
	}
	return m.settle(seq, "the control plane refused the report: "+reason)
}

func (m *Manager) settle(seq uint64, refusal string) error {
	if seq == 0 {
		return nil
	}
	point := crashpoint.WriteAcknowledged
	if refusal != "" {
		point = crashpoint.WriteHeld
	}
	m.hit(point + crashpoint.Before)
	j, from, err := m.journal.settle(seq, refusal, m.opts.Now())
	if err != nil {
		return err
	}
	m.hit(point + crashpoint.After)
	wake(m.outbox)
	if j != nil {
		m.changed(j, from)
		m.signal(j.ID)
	}
	return nil
}

// Cancel asks for the job to be undone. A job whose backup is stored can't be: ErrState says to resume
// the instance instead; nor can a restore whose volumes get into their places. A job that is over, or being undone, is left alone.
func (m *Manager) Cancel(id string) error {
	_, _, err := m.journal.step(id, "", m.opts.Now(), func(_ *bbolt.Tx, j *Job) error {
		switch {
		case j.State.Final(), j.State == Failing, j.CancelAsked:
			return errNothingToDo
		case j.undoable():
			return nil
		case j.IsRestore():
			return fmt.Errorf("cancel job %s, which is %s: the volumes are restored: %w", id, j.State, ErrState)
		}
		return fmt.Errorf("cancel job %s, which is %s: the backup is stored; resume the instance instead: %w", id, j.State, ErrState)
	}, change{edit: func(j *Job) { j.CancelAsked = true }})
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

// Release asks for the instance to be powered down. It is done when the report is acknowledged, not
// before; for a job that is held the report is sent again. Done twice it is no error. ErrState when
// the instance has no stored backup that waits.
func (m *Manager) Release(instance string) error {
	return m.ask(instance, "release", func(j *Job) error {
		if j.ResumeAsked || !slices.Contains([]State{Stored, Reported, Held, Acknowledged, Releasing, Released}, j.State) {
			return ErrState
		}
		if j.ReleaseAsked && j.State != Held {
			return errNothingToDo
		}
		return nil
	}, func(j *Job) { j.ReleaseAsked = true })
}

// Resume asks for a frozen instance with a stored backup to run again; the backup stays. Done twice
// it is no error. ErrState when the instance is not held for a stored backup.
func (m *Manager) Resume(instance string) error {
	return m.ask(instance, "resume", func(j *Job) error {
		if j.ResumeAsked {
			return errNothingToDo
		}
		if !slices.Contains([]State{Stored, Reported, Held, Acknowledged}, j.State) {
			return ErrState
		}
		return nil
	}, func(j *Job) { j.ResumeAsked = true })
}

func (m *Manager) ask(instance, what string, check func(*Job) error, edit func(*Job)) error {
	active, _, err := m.journal.ByInstance(instance)
	if err != nil {
		return err
	}
	if active == nil {
		return fmt.Errorf("%s %q: it has no job that waits: %w", what, instance, ErrState)
	}
	_, _, err = m.journal.step(active.ID, "", m.opts.Now(), func(_ *bbolt.Tx, j *Job) error {
		if err := check(j); err != nil {
			if errors.Is(err, errNothingToDo) {
				return err
			}
			return fmt.Errorf("%s %q, whose job is %s: %w", what, instance, j.State, err)
		}
		return nil
	}, change{edit: edit})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	if err != nil {
		return err
	}
	m.signal(active.ID)
	return nil
}

// eventData is the body of an event, beside what every event has.
type eventData struct {
	Task           string          `json:"task_id"`
	Job            string          `json:"job_id"`
	Instance       string          `json:"instance_id"`
	Tenant         string          `json:"tenant"`
	BackupID       string          `json:"backup_id,omitempty"`
	Files          uint64          `json:"files,omitempty"`
	Bytes          uint64          `json:"bytes,omitempty"` // content of the backup
	BytesRead      uint64          `json:"bytes_read,omitempty"`
	BytesNew       uint64          `json:"bytes_new,omitempty"`
	BytesSent      uint64          `json:"bytes_sent,omitempty"`
	BytesRestored  uint64          `json:"bytes_restored,omitempty"`
	BytesTotal     uint64          `json:"bytes_total,omitempty"` // of a restore
	BytesFetched   uint64          `json:"bytes_fetched,omitempty"`
	Warnings       int             `json:"warnings,omitempty"`        // of a restore: what is not exactly as it was backed up
	LossesAccepted int             `json:"losses_accepted,omitempty"` // places without their content, where the configuration accepts it
	AlreadyReady   bool            `json:"already_ready,omitempty"`   // nothing had to be restored
	FreezeSeconds  float64         `json:"freeze_seconds,omitempty"`
	Reason         string          `json:"reason,omitempty"` // why a job failed, in plain words
	Receipt        json.RawMessage `json:"receipt,omitempty"`
}

func (m *Manager) eventData(j *Job) eventData {
	d := eventData{
		Task: j.Task, Job: j.ID, Instance: j.Instance, Tenant: j.Tenant,
		FreezeSeconds: j.FreezeSeconds(m.journal.Up()),
	}
	if j.Result != nil {
		d.BackupID, d.Files = j.Result.BackupID, j.Result.Files
		d.Bytes = j.Result.Bytes
		d.LossesAccepted = j.Result.LossesAccepted
		d.BytesRead, d.BytesNew, d.BytesSent = j.Result.BytesRead, j.Result.BytesNew, j.Result.BytesSent
	}
	if r := j.Restore; r != nil {
		d.BackupID, d.AlreadyReady = r.Backup, r.Ready
		if res := r.Result; res != nil {
			d.Files, d.BytesRestored, d.BytesTotal = res.Files, res.Bytes, res.Bytes
			d.BytesFetched, d.Warnings = res.BytesFetched, res.Warnings
		}
	}
	return d
}

// event makes the event of the type for a job's transaction.
func (m *Manager) event(kind string) func(*Job) (Event, error) {
	return func(j *Job) (Event, error) {
		d := m.eventData(j)
		if kind == EventFailed || kind == EventRestoreFailed {
			d.Reason = j.Cause
		}
		b, err := json.Marshal(d)
		if err != nil {
			return Event{}, fmt.Errorf("encode event: %w", err)
		}
		return Event{Type: kind, Data: b}, nil
	}
}
