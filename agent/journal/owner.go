package journal

import (
	"errors"

	"go.etcd.io/bbolt"
)

// keyOwner is where bucketMeta has the identity of the state folder in which the journal lies.
var keyOwner = []byte("owner")

// Owner returns the identity that SetOwner wrote; "" where none was written.
func (jr *Journal) Owner() (owner string, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		owner = string(tx.Bucket(bucketMeta).Get(keyOwner))
		return nil
	})
	return owner, err
}

// SetOwner writes the identity of the state folder into the journal, unless it is there.
func (jr *Journal) SetOwner(owner string) error {
	if now, err := jr.Owner(); err != nil || now == owner {
		return err
	}
	return jr.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyOwner, []byte(owner)) })
}

// Used tells whether the journal has any task, report or content of an instance.
func (jr *Journal) Used() (used bool, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketTasks, bucketJobs, bucketOutbox, bucketRefused, bucketContent} {
			if k, _ := tx.Bucket(name).Cursor().First(); k != nil {
				used = true
			}
		}
		return nil
	})
	return used, err
}

// Inspect opens the journal at path, which no agent has open, without a change
// to its content, and sets no damage aside. The caller closes the journal, and
// holds its lock until then. The error is ErrLocked when another process has it.
func Inspect(path string) (*Journal, error) {
	jr, err := openFile(path)
	if err != nil {
		return nil, err
	}
	jr.Guard(func() error { return errInspected })
	return jr, nil
}

var errInspected = errors.New("the journal is only looked at")
