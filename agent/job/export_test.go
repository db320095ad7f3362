package job

import (
	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Copy writes the journal as it is now to another file.
func (jr *Journal) Copy(path string) error {
	return jr.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path, 0o600) })
}

// AskCancel notes that the unfinished job of the instance is to be undone, as Cancel does.
func (jr *Journal) AskCancel(instance string) error {
	return jr.update(func(tx *bbolt.Tx) error {
		j, err := getJob(tx, string(tx.Bucket(bucketActive).Get([]byte(instance))))
		if err != nil {
			return err
		}
		j.CancelAsked = true
		return put(tx, bucketJobs, []byte(j.ID), j)
	})
}

// NoteReleased notes that the instance was powered down on the backup from which its volumes come,
// as the end of a release does.
func (jr *Journal) NoteReleased(instance string) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var c model.Content
		if _, err := get(tx, bucketContent, []byte(instance), &c); err != nil {
			return err
		}
		c.Released = true
		return put(tx, bucketContent, []byte(instance), c)
	})
}
