package journal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Leftovers lists the things that could not be removed yet, the oldest first.
func (jr *Journal) Leftovers() (list []model.Leftover, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketLeftovers).ForEach(func(k, v []byte) error {
			var l model.Leftover
			if err := json.Unmarshal(v, &l); err != nil {
				return fmt.Errorf("journal: decode leftover %q: %w", k, err)
			}
			list = append(list, l)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b model.Leftover) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Path(), b.Path()))
	})
	return list, err
}

// putLeftovers writes the leftovers of a step of a job.
func putLeftovers(tx *bbolt.Tx, left []model.Leftover) error {
	for _, l := range left {
		if err := put(tx, bucketLeftovers, []byte(l.Key()), l); err != nil {
			return err
		}
	}
	return nil
}

// NoteLeftover writes that something could not be removed, with the time since when.
func (jr *Journal) NoteLeftover(l model.Leftover) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var before model.Leftover
		if found, err := get(tx, bucketLeftovers, []byte(l.Key()), &before); err != nil {
			return err
		} else if found {
			l.Since, l.Instance, l.Job = before.Since, before.Instance, before.Job
		}
		return put(tx, bucketLeftovers, []byte(l.Key()), l)
	})
}

// ForgetLeftover writes that it is gone. A leftover that was removed
// at the first try is not in the journal, and costs no write.
func (jr *Journal) ForgetLeftover(l model.Leftover) error {
	known := false
	err := jr.db.View(func(tx *bbolt.Tx) error {
		known = tx.Bucket(bucketLeftovers).Get([]byte(l.Key())) != nil
		return nil
	})
	if err != nil || !known {
		return err
	}
	return jr.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketLeftovers).Delete([]byte(l.Key())) })
}
