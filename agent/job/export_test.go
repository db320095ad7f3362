package job

import "go.etcd.io/bbolt"

// NoteReleased notes that the instance was powered down on the backup from which its volumes come,
// as the end of a release does.
func (jr *Journal) NoteReleased(instance string) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var c Content
		if _, err := get(tx, bucketContent, []byte(instance), &c); err != nil {
			return err
		}
		c.Released = true
		return put(tx, bucketContent, []byte(instance), c)
	})
}
