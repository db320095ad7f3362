package journal

import (
	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Adopt writes the job as a job that is being undone, unless the journal
// knows it or another job of its instance. It tells of a job that is over.
func (jr *Journal) Adopt(j model.Job, cause string) (adopted, over bool, err error) {
	err = jr.transact(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketJobs).Get([]byte(j.ID)) != nil {
			known, err := getJob(tx, j.ID)
			over = err == nil && known.State.Final()
			return err
		}
		if tx.Bucket(bucketActive).Get([]byte(j.Instance)) != nil {
			return nil
		}
		if j.Seq, err = tx.Bucket(bucketJobs).NextSequence(); err != nil {
			return err
		}
		j.State, j.Hold, j.Cause, j.Result = model.Failing, true, cause, nil
		// The readings in the note are of the clock of the journal that was lost.
		j.AcceptedUp, j.EnteredUp, j.HeldUp = jr.Up(), nil, jr.Up()
		// The notes tell about the command only its jobs that held an instance.
		t := model.Task{ID: j.Task, Tenant: j.Tenant, Accepted: j.AcceptedAt}
		if _, err := get(tx, bucketTasks, []byte(j.Task), &t); err != nil {
			return err
		}
		t.Jobs = append(t.Jobs, model.JobRef{Instance: j.Instance, Job: j.ID})
		if err := put(tx, bucketTasks, []byte(t.ID), t); err != nil {
			return err
		}
		if err := tx.Bucket(bucketActive).Put([]byte(j.Instance), []byte(j.ID)); err != nil {
			return err
		}
		adopted = true
		if err := indexJob(tx, &j); err != nil {
			return err
		}
		return put(tx, bucketJobs, []byte(j.ID), j)
	})
	return adopted, over, err
}
