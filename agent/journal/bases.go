package journal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

func baseKey(instance, volume string) []byte { return []byte(instance + "\x00" + volume) }

// Bases returns the bases of an instance, or of all when it is "", the oldest first.
func (jr *Journal) Bases(instance string) (bases []model.Base, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		bases, err = basesOf(tx, instance)
		return err
	})
	return bases, err
}

func basesOf(tx *bbolt.Tx, instance string) (bases []model.Base, err error) {
	prefix := []byte(instance)
	if instance != "" {
		prefix = baseKey(instance, "")
	}
	c := tx.Bucket(bucketBases).Cursor()
	for k, v := c.Seek(prefix); k != nil && hasPrefix(k, prefix); k, v = c.Next() {
		var b model.Base
		if err := json.Unmarshal(v, &b); err != nil {
			return nil, fmt.Errorf("journal: decode base %q: %w", k, err)
		}
		bases = append(bases, b)
	}
	slices.SortFunc(bases, func(a, b model.Base) int {
		return cmp.Or(cmp.Compare(a.MadeUp, b.MadeUp), cmp.Compare(a.Ref.Path, b.Ref.Path))
	})
	return bases, nil
}

// putBases writes the bases of a step. drop forgets all bases of the instance first.
func putBases(tx *bbolt.Tx, instance string, bases []model.Base, drop bool) error {
	if drop {
		old, err := basesOf(tx, instance)
		if err != nil {
			return err
		}
		for _, b := range old {
			if err := tx.Bucket(bucketBases).Delete(baseKey(b.Instance, b.Volume)); err != nil {
				return err
			}
		}
	}
	for _, b := range bases {
		if err := put(tx, bucketBases, baseKey(b.Instance, b.Volume), b); err != nil {
			return err
		}
	}
	return nil
}

// ForgetBase takes a base out of the journal, unless it is another one by now or a job may use it.
func (jr *Journal) ForgetBase(b model.Base) (forgotten bool, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		forgotten = false
		if id := tx.Bucket(bucketActive).Get([]byte(b.Instance)); id != nil {
			j, err := getJob(tx, string(id))
			if err != nil || j.State != model.Accepted {
				return err
			}
		}
		var now model.Base
		found, err := get(tx, bucketBases, baseKey(b.Instance, b.Volume), &now)
		if err != nil || !found || now.Ref != b.Ref {
			return err
		}
		forgotten = true
		return tx.Bucket(bucketBases).Delete(baseKey(b.Instance, b.Volume))
	})
	return forgotten, err
}

// ReplacedBases returns the bases whose places the bases of a step take. drop says that the step
// forgets all bases of the instance first.
func (jr *Journal) ReplacedBases(instance string, bases []model.Base, drop bool) ([]model.Base, error) {
	if len(bases) == 0 && !drop {
		return nil, nil
	}
	old, err := jr.Bases(instance)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(old, func(b model.Base) bool {
		return slices.ContainsFunc(bases, func(k model.Base) bool { return k.Ref.Path == b.Ref.Path }) ||
			!drop && !slices.ContainsFunc(bases, func(k model.Base) bool { return k.Volume == b.Volume })
	}), nil
}
