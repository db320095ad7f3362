package journal

import (
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Accept writes the task and its jobs, unless the request is known: then it returns the first task
// and made is false. Busy instances are a *BusyError.
func (jr *Journal) Accept(t model.Task, jobs []model.Job) (got *model.Task, made bool, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		made = false
		got, err = findRequest(tx, t.Tenant, t.RequestID, t.Digest)
		if err != nil || got != nil {
			return err
		}
		if outboxFull(tx) {
			return fmt.Errorf("the control plane takes no reports, %d wait or were refused: %w", MaxOutbox, model.ErrQueueFull)
		}
		active := tx.Bucket(bucketActive)
		var busy model.BusyError
		for i := range jobs {
			id := active.Get([]byte(jobs[i].Instance))
			if id == nil {
				continue
			}
			other, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			busy.Add(other)
		}
		if len(busy.Instances) > 0 {
			return &busy
		}
		for i := range jobs {
			job := &jobs[i]
			if job.Seq, err = tx.Bucket(bucketJobs).NextSequence(); err != nil {
				return err
			}
			job.AcceptedUp = jr.Up()
			job.Enter(job.AcceptedAt, job.AcceptedUp)
			if err := put(tx, bucketJobs, []byte(job.ID), job); err != nil {
				return err
			}
			if err := active.Put([]byte(job.Instance), []byte(job.ID)); err != nil {
				return err
			}
			if err := indexJob(tx, job); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketRequests).Put(requestKey(t.Tenant, t.RequestID), []byte(t.ID)); err != nil {
			return err
		}
		got, made = &t, true
		return put(tx, bucketTasks, []byte(t.ID), t)
	})
	if err != nil {
		return nil, false, err
	}
	return got, made, nil
}

// Record is a job as one transaction of the journal sees it.
type Record struct {
	*model.Job
	// ReportWaits says that the report of the stored backup (Job.ReportSeq) is in the outbox: the
	// control plane has not acknowledged the report.
	ReportWaits bool
}

func recordOf(tx *bbolt.Tx, j *model.Job) Record {
	return Record{Job: j, ReportWaits: tx.Bucket(bucketOutbox).Get(outboxKey(j.ReportSeq)) != nil}
}

// Record returns the record of a job, or ErrNotFound.
func (jr *Journal) Record(id string) (r Record, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		j, err := getJob(tx, id)
		if err == nil {
			r = recordOf(tx, j)
		}
		return err
	})
	return r, err
}

// Change holds the writes of a step beside the state. The zero Change writes nothing else.
type Change struct {
	Edit func(job *model.Job) // may be nil
	// Emit makes an event, which joins the outbox in the same transaction; may be nil.
	Emit func(job *model.Job) (model.Event, error)
	// Bases take the places of the bases of the same volumes. DropBases forgets all bases of the
	// instance first.
	Bases     []model.Base
	DropBases bool
	Left      []model.Leftover // things that the step could not remove
	Kept      *model.Aside     // content that is kept from here on; nil: no more
	Unkept    string           // the job whose replaced content is not kept any more; "": none
}

// Step moves the job to another state, or rewrites it in its state when to is empty. check sees the
// record first, and its error stops everything.
func (jr *Journal) Step(id string, to model.State, now time.Time, check func(Record) error, c Change) (job *model.Job, from model.State, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		job, err = getJob(tx, id)
		if err != nil {
			return err
		}
		from = job.State
		if check != nil {
			if err := check(recordOf(tx, job)); err != nil {
				return err
			}
		}
		if to != "" {
			if !from.LeadsTo(to) {
				return fmt.Errorf("job %s: from %s to %s: %w", id, from, to, model.ErrState)
			}
			job.State = to
			job.Enter(now, jr.Up())
		}
		if c.Edit != nil {
			c.Edit(job)
		}
		if c.Emit != nil {
			if err := emit(tx, job, now, c.Emit); err != nil {
				return err
			}
		}
		if err := putBases(tx, job.Instance, c.Bases, c.DropBases); err != nil {
			return err
		}
		if err := putLeftovers(tx, c.Left); err != nil {
			return err
		}
		if err := putAside(tx, job.Instance, c.Kept, c.Unkept); err != nil {
			return err
		}
		if err := noteContent(tx, job); err != nil {
			return err
		}
		if job.State.Final() {
			// nobody sends it again, and nothing is done to the instance
			job.CompletedReport, job.Kept = nil, nil
		}
		if err := put(tx, bucketJobs, []byte(id), job); err != nil || !job.State.Final() {
			return err
		}
		return finish(tx, job, jr.Up())
	})
	if err != nil {
		return nil, from, err
	}
	return job, from, nil
}

// finish ends a job: its instance is free, its pack ids are gone, and when it was the last of its
// task, the task begins to age.
func finish(tx *bbolt.Tx, job *model.Job, up time.Duration) error {
	if err := tx.Bucket(bucketActive).Delete([]byte(job.Instance)); err != nil {
		return err
	}
	if err := tx.Bucket(bucketEnded).Put([]byte(job.Instance), []byte(job.ID)); err != nil {
		return err
	}
	if job.State == model.Done && !job.IsRestore() {
		if err := tx.Bucket(bucketLatest).Put([]byte(job.Instance), []byte(job.ID)); err != nil {
			return err
		}
	}
	cursor, prefix := tx.Bucket(bucketPacks).Cursor(), []byte(job.ID+"\x00")
	for k, _ := cursor.Seek(prefix); k != nil && hasPrefix(k, prefix); k, _ = cursor.Seek(prefix) {
		if err := cursor.Delete(); err != nil {
			return err
		}
	}
	var t model.Task
	found, err := get(tx, bucketTasks, []byte(job.Task), &t)
	if err != nil || !found {
		return err
	}
	active := tx.Bucket(bucketActive)
	for _, ref := range t.Jobs {
		if string(active.Get([]byte(ref.Instance))) == ref.Job {
			return nil
		}
	}
	return putFinished(tx, &t, up)
}

// AddPack writes that the job is about to send the pack.
func (jr *Journal) AddPack(job, pack string) error {
	return jr.update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketPacks).Put([]byte(job+"\x00"+pack), nil)
	})
}

// Packs returns the packs that the job may have sent, as addPack was told.
func (jr *Journal) Packs(job string) (ids []string, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		c, prefix := tx.Bucket(bucketPacks).Cursor(), []byte(job+"\x00")
		for k, _ := c.Seek(prefix); k != nil && hasPrefix(k, prefix); k, _ = c.Next() {
			ids = append(ids, string(k[len(prefix):]))
		}
		return nil
	})
	return ids, err
}
