package journal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

func asideKey(instance, job string) []byte { return []byte(instance + "\x00" + job) }

// soundAside tells why a record of kept content can't be worked with. Opening the journal sets such
// a record aside; the trees on the disks bear notes, by which an agent finds them again and has
// AdoptKept record them.
func soundAside(k, v []byte) error {
	var s model.Aside
	if err := json.Unmarshal(v, &s); err != nil {
		return err
	}
	if !bytes.Equal(k, []byte(s.Key())) {
		return fmt.Errorf("it is of job %q of instance %q", s.Job, s.Instance)
	}
	return nil
}

// putAside writes, in the transaction of a state, the content that is kept from then on (nil: no
// more), and forgets the content that the job unkept has replaced ("": none).
func putAside(tx *bbolt.Tx, instance string, kept *model.Aside, unkept string) error {
	if unkept != "" {
		if err := tx.Bucket(bucketAside).Delete(asideKey(instance, unkept)); err != nil {
			return err
		}
	}
	if kept == nil {
		return nil
	}
	return put(tx, bucketAside, []byte(kept.Key()), kept)
}

// Kept lists the kept content, the oldest first.
func (jr *Journal) Kept() (list []model.Aside, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketAside).ForEach(func(k, v []byte) error {
			var s model.Aside
			if err := json.Unmarshal(v, &s); err != nil {
				return fmt.Errorf("journal: decode the record of kept content %q: %w", k, err)
			}
			list = append(list, s)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b model.Aside) int {
		return cmp.Or(cmp.Compare(a.SinceUp, b.SinceUp), cmp.Compare(a.Job, b.Job))
	})
	return list, err
}

// KeptBy returns the record of the content that one job has replaced, or ErrNotFound.
func (jr *Journal) KeptBy(instance, job string) (s model.Aside, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		found, err := get(tx, bucketAside, asideKey(instance, job), &s)
		if err == nil && !found {
			err = fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, model.ErrNotFound)
		}
		return err
	})
	return s, err
}

// EditKept rewrites a record that is still there, or forgets it where edit returns false.
// ErrNotFound where the record is gone.
func (jr *Journal) EditKept(instance, job string, edit func(*model.Aside) bool) error {
	return jr.update(func(tx *bbolt.Tx) error { return editKept(tx, instance, job, edit) })
}

func editKept(tx *bbolt.Tx, instance, job string, edit func(*model.Aside) bool) error {
	var s model.Aside
	found, err := get(tx, bucketAside, asideKey(instance, job), &s)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, model.ErrNotFound)
	case !edit(&s):
		return tx.Bucket(bucketAside).Delete([]byte(s.Key()))
	}
	return put(tx, bucketAside, []byte(s.Key()), s)
}

// CondemnKept writes that kept content is being removed, which nothing stops any more, and adds
// told to the outbox, unless told is nil. ErrNotFound where the record is gone, and ErrState while
// a job of the instance puts the content back, or has only just replaced it.
func (jr *Journal) CondemnKept(instance, job string, told *model.Event, now time.Time) error {
	return jr.update(func(tx *bbolt.Tx) error {
		if err := editKept(tx, instance, job, func(s *model.Aside) bool { s.Removing = true; return true }); err != nil {
			return err
		}
		if err := noPutBack(tx, instance, job); err != nil || told == nil {
			return err
		}
		return tell(tx, now, *told)
	})
}

// noPutBack fails while a job of the instance puts back the content that the named job has
// replaced, or has only just replaced it.
func noPutBack(tx *bbolt.Tx, instance, job string) error {
	id := tx.Bucket(bucketActive).Get([]byte(instance))
	if id == nil {
		return nil
	}
	active, err := getJob(tx, string(id))
	if err != nil {
		return err
	}
	if active.PutBack == job || active.ID == job {
		return fmt.Errorf("the kept content of %q is in use by job %s, which is %s: %w", instance, active.ID, active.State, model.ErrState)
	}
	return nil
}

// KnowsKept tells whether a record names the tree: as kept content, or as a leftover. A record that
// does not know that the removal of the tree has begun learns it.
func (jr *Journal) KnowsKept(f model.FoundKept) (known bool, err error) {
	left, err := jr.Leftovers()
	if err != nil {
		return false, err
	}
	for _, l := range left {
		if l.Path() == f.Path || l.Place != nil && l.Place.Old != "" && l.Place.Old == f.Place.Old {
			return true, nil
		}
	}
	all, err := jr.Kept()
	if err != nil {
		return false, err
	}
	for _, s := range all {
		for _, v := range s.Volumes {
			if v.Place.Old != f.Place.Old && v.Place.Aside != f.Path {
				continue
			}
			if f.Note != nil && f.Note.Removing && v.Place.Old == f.Place.Old && !s.Removing && !s.Partial {
				err = jr.EditKept(s.Instance, s.Job, func(s *model.Aside) bool { s.Partial = true; return true })
				if errors.Is(err, model.ErrNotFound) {
					err = nil // it was removed meanwhile
				}
			}
			return true, err
		}
	}
	return false, nil
}

// AdoptKept adds a tree to the record of its job, or makes that record. Nothing is adopted while a
// job of the instance may use the tree, and while the record is being removed. told makes the event
// of the adoption from the new record.
func (jr *Journal) AdoptKept(f model.FoundKept, c model.Count, now time.Time, told func(*model.Aside) (model.Event, error)) (adopted bool, err error) {
	n := f.Note
	err = jr.update(func(tx *bbolt.Tx) error {
		adopted = false
		if id := tx.Bucket(bucketActive).Get([]byte(n.Instance)); id != nil {
			active, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			if active.TakesOut(f) {
				return nil
			}
		}
		var s model.Aside
		there, err := get(tx, bucketAside, asideKey(n.Instance, n.Job), &s)
		switch {
		case err != nil:
			return err
		case !there:
			s = model.Aside{
				Instance: n.Instance, Tenant: n.Tenant, Job: n.Job, Since: n.Since, By: n.By, Replaced: model.Replaced{Backup: n.Backup, Kept: true},
				Known: model.Content{Backup: n.Backup, Seq: n.Seq, Created: n.Created, Vault: n.Vault, Tenant: n.Tenant},
			}
			if n.Backup == "" {
				s.Known = model.Content{}
			}
		case s.Removing:
			return nil // the record goes soon
		case s.Tenant != n.Tenant, slices.ContainsFunc(s.Volumes, func(v model.AsideVolume) bool { return v.Place.Volume == n.Volume }):
			return fmt.Errorf("the journal names another tree as the kept content of volume %q by job %s; look at both, and rename or remove one by hand", n.Volume, n.Job)
		}
		s.Volumes = append(s.Volumes, model.AsideVolume{Place: f.Place, Count: c})
		s.Missing = slices.DeleteFunc(s.Missing, func(v string) bool { return v == n.Volume })
		s.Partial = s.Partial || n.Removing
		s.Adopted, s.SinceUp = now, jr.Up()
		s.Replaced.Add(c)
		adopted = true
		e, err := told(&s)
		return errors.Join(err, put(tx, bucketAside, []byte(s.Key()), s), tell(tx, now, e))
	})
	return adopted, err
}
