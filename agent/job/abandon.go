package job

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// A job that can't end keeps its instance from every other job. An
// operator gives such a job up, and takes over the rest of its work
// on the instance and its volumes: the agent leaves both as they are.

// ofUnknown tells whether a snapshot may belong to a job
// whose record does not say which snapshots the job has.
func ofUnknown(jobs []*model.Job, ref model.Ref) bool {
	return slices.ContainsFunc(jobs, func(j *model.Job) bool { return j.State == model.Unknown && strings.Contains(ref.Path, j.ID) })
}

// Abandon gives the unfinished job of the instance up, on
// an operator's word. It returns the job as it was found.
//
// The job ends as failed, and the control plane is told. The instance stays as it is:
// frozen, stopped, or with volumes of two times where a restore was under way (Job.Cause
// names the places). Snapshots that the record names become leftovers. The content of the
// volumes is in doubt then (Content.Doubt), unless the job was a backup for sure. A job with
// a worker ends when the act under way has come back, within a minute after it. ErrNotFound
// when the instance has no unfinished job, ErrState when the job has another way out.
func (m *Manager) Abandon(instance string) (*model.Job, error) {
	active, _, err := m.journal.ByInstance(instance)
	switch {
	case err != nil:
		return nil, err
	case active == nil:
		return nil, fmt.Errorf("abandon the job of %q, which has none: %w", instance, model.ErrNotFound)
	case active.State != model.Unknown:
		j, _, err := m.journal.Step(active.ID, "", m.opts.Now(), func(j journal.Record) error {
			if !j.Abandonable() {
				return fmt.Errorf("abandon job %s, which is %s: %w", j.ID, j.State, model.ErrState)
			}
			return nil
		}, journal.Change{Edit: func(j *model.Job) { j.AbandonAsked = true }})
		if err != nil {
			return nil, err
		}
		m.signal(j.ID)
		return j, nil
	}
	return active, m.abandon(active)
}

// abandoned tells whether an operator has given up the job since the worker read it.
func (w *worker) abandoned() bool {
	j, err := w.m.journal.Job(w.id)
	return err == nil && j.AbandonAsked && j.Abandonable()
}

// abandon ends a job that was given up.
func (m *Manager) abandon(j *model.Job) error {
	kind := model.EventFailed
	if j.IsRestore() {
		kind = model.EventRestoreFailed
	}
	ended, from, err := m.journal.Abandon(j.ID, m.opts.Now(), m.event(kind))
	if err != nil {
		return err
	}
	// Where a crash or a fault keeps the note, the next start removes it.
	if m.parts.Marks != nil {
		if err := m.parts.Marks.Clear(j.Instance); err != nil {
			m.parts.Observer.Trouble(j.Instance, j.ID, "remove the note that the instance is held", err)
		}
	}
	m.changed(ended, from)
	return nil
}
