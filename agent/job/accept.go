package job

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// AcceptedLoss is an operator's word that backups of an instance, which this
// host knows, are gone from the store for good. Without that word a store
// that lacks a backup counts as set back, and nothing is restored from it.
type AcceptedLoss struct {
	Lost   []Content `json:"lost"`   // the backups that this host knows and the store lacks
	Newest Content   `json:"newest"` // that the store had then; zero: the store had no backup
	By     string    `json:"by"`     // who accepted the loss, for people
	At     time.Time `json:"at"`     // UTC
}

// Covers tells whether the loss of a backup is accepted while the newest
// backup in the store is another one. A store that has lost more since, so
// that its newest backup is older than the accepted one, is not covered.
func (a *AcceptedLoss) Covers(lost, newest Content) bool {
	return newest.Seq >= a.Newest.Seq && slices.ContainsFunc(a.Lost, func(c Content) bool { return c.Backup == lost.Backup && lost.Backup != "" })
}

// AcceptedLoss returns the last loss that an operator has
// accepted for the instance; zero when there is none.
func (jr *Journal) AcceptedLoss(instance string) (a AcceptedLoss, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketAccepted, []byte(instance), &a)
		return err
	})
	return a, err
}

// acceptLoss journals an accepted loss, in the place of the one before, and what told
// adds. A *BusyError while a job works on the instance: that job has decided by what
// held before.
func (jr *Journal) acceptLoss(instance string, a AcceptedLoss, told func(tx *bbolt.Tx) error) error {
	if len(a.Lost) == 0 {
		return errors.New("accept a loss: no backup is named")
	}
	return jr.update(func(tx *bbolt.Tx) error {
		if id := tx.Bucket(bucketActive).Get([]byte(instance)); id != nil {
			j, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			busy := &BusyError{}
			busy.add(j)
			return busy
		}
		return errors.Join(put(tx, bucketAccepted, []byte(instance), a), told(tx))
	})
}
