package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// A job that can't end keeps its instance from every other job. An
// operator gives such a job up, and takes over the rest of its work
// on the instance and its volumes: the agent leaves both as they are.

// Busy is a *BusyError where unfinished jobs work on any of the instances, and nil where none does.
func (jr *Journal) Busy(instances ...string) error {
	var busy model.BusyError
	err := jr.db.View(func(tx *bbolt.Tx) error {
		for _, instance := range instances {
			id := tx.Bucket(bucketActive).Get([]byte(instance))
			if id == nil {
				continue
			}
			j, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			busy.Add(j)
		}
		return nil
	})
	if err == nil && len(busy.Instances) > 0 {
		return &busy
	}
	return err
}

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
		j, _, err := m.journal.step(active.ID, "", m.opts.Now(), func(_ *bbolt.Tx, j *model.Job) error {
			if !j.Abandonable() {
				return fmt.Errorf("abandon job %s, which is %s: %w", j.ID, j.State, model.ErrState)
			}
			return nil
		}, change{edit: func(j *model.Job) { j.AbandonAsked = true }})
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
	from, kind := j.State, model.EventFailed
	if j.IsRestore() {
		kind = model.EventRestoreFailed
	}
	var ended *model.Job
	err := m.journal.update(func(tx *bbolt.Tx) error {
		now, err := getJob(tx, j.ID)
		if err != nil {
			return err
		}
		if !now.Abandonable() {
			return fmt.Errorf("abandon job %s, which is %s: %w", now.ID, now.State, model.ErrState)
		}
		now.Cause = now.LeftBehind()
		from, now.State = now.State, model.Failed
		now.Enter(m.opts.Now(), m.journal.Up())
		if now.Hold {
			now.EndHold(m.opts.Now(), m.journal.Up())
		}
		left := leftSnapshots(now, m.opts.Now())
		now.Snapshots, now.CompletedReport, now.Kept = nil, nil, nil
		if err := doubtContent(tx, now, from); err != nil {
			return err
		}
		r := UnknownRecord{Bucket: string(bucketJobs), Key: []byte(now.ID)}
		if err := errors.Join(emit(tx, now, m.opts.Now(), m.event(kind)), putLeftovers(tx, left), tx.Bucket(bucketUnknown).Delete(r.key()),
			put(tx, bucketJobs, []byte(now.ID), now), finish(tx, now, m.journal.Up())); err != nil {
			return err
		}
		ended = now
		return nil
	})
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

// doubtContent notes that nobody knows the content of the volumes after a job that was given up,
// unless the job was a backup for sure, which changes no volume, or all volumes were in place.
func doubtContent(tx *bbolt.Tx, j *model.Job, from model.State) error {
	if j.Kind == model.KindBackup && from != model.Unknown || j.Restore != nil && j.Restore.Placed {
		return nil
	}
	var c model.Content
	if _, err := get(tx, bucketContent, []byte(j.Instance), &c); err != nil {
		return err
	}
	c.Doubt = fmt.Sprintf("job %s was given up while it was %s", j.ID, from)
	return put(tx, bucketContent, []byte(j.Instance), c)
}

// leftSnapshots are the snapshots that the record of an abandoned job names.
func leftSnapshots(j *model.Job, now time.Time) (left []model.Leftover) {
	for _, s := range j.Snapshots {
		left = append(left, model.Leftover{Instance: j.Instance, Job: j.ID, Ref: s.Ref, Since: now.UTC(), Error: "its job was given up"})
	}
	return left
}
