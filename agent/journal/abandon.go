package journal

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Abandon ends a job that an operator has given up: the job fails, and the instance stays as it is.
// emitted makes the event. ErrState when the job has another way out.
func (jr *Journal) Abandon(id string, now time.Time, emitted func(*model.Job) (model.Event, error)) (job *model.Job, from model.State, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		job, err = getJob(tx, id)
		if err != nil {
			return err
		}
		if !job.Abandonable() {
			return fmt.Errorf("abandon job %s, which is %s: %w", job.ID, job.State, model.ErrState)
		}
		job.Cause = job.LeftBehind()
		from, job.State = job.State, model.Failed
		job.Enter(now, jr.Up())
		if job.Hold {
			job.EndHold(now, jr.Up())
		}
		left := leftSnapshots(job, now)
		job.Snapshots, job.CompletedReport, job.Kept = nil, nil, nil
		if err := doubtContent(tx, job, from); err != nil {
			return err
		}
		r := UnknownRecord{Bucket: string(bucketJobs), Key: []byte(job.ID)}
		return errors.Join(emit(tx, job, now, emitted), putLeftovers(tx, left), tx.Bucket(bucketUnknown).Delete(r.key()),
			put(tx, bucketJobs, []byte(job.ID), job), finish(tx, job, jr.Up()))
	})
	if err != nil {
		return nil, from, err
	}
	return job, from, nil
}

// leftSnapshots are the snapshots that the record of an abandoned job names.
func leftSnapshots(j *model.Job, now time.Time) (left []model.Leftover) {
	for _, s := range j.Snapshots {
		left = append(left, model.Leftover{Instance: j.Instance, Job: j.ID, Ref: s.Ref, Since: now.UTC(), Error: "its job was given up"})
	}
	return left
}
