package journal

import (
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// AcceptedLoss returns the last loss that an operator has
// accepted for the instance; zero when there is none.
func (jr *Journal) AcceptedLoss(instance string) (a model.AcceptedLoss, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketAccepted, []byte(instance), &a)
		return err
	})
	return a, err
}

// AcceptLoss journals an accepted loss, in the place of the loss that was accepted before, and adds
// told to the outbox. A *BusyError while a job works on the instance: that job has decided by the
// knowledge of then.
func (jr *Journal) AcceptLoss(instance string, a model.AcceptedLoss, told model.Event, now time.Time) error {
	if len(a.Lost) == 0 {
		return errors.New("accept a loss: no backup is named")
	}
	return jr.update(func(tx *bbolt.Tx) error {
		if id := tx.Bucket(bucketActive).Get([]byte(instance)); id != nil {
			j, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			busy := &model.BusyError{}
			busy.Add(j)
			return busy
		}
		return errors.Join(put(tx, bucketAccepted, []byte(instance), a), tell(tx, now, told))
	})
}
