package journal

import (
	"errors"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Belonging tells whether an instance is on this host, as far as the journal knows. The claims of
// the host follow from it alone: a crash leaves none for longer than until the next look.
type Belonging struct {
	// Here says that the instance belongs to this host, so that the host keeps its claim. Where
	// the journal knows nothing of the instance, nobody knows better, and it is true.
	Here bool
	// Known says that the host has had the instance, or tried to have it: there may be a claim.
	Known bool
	// Tenant is the owner of the last restore of the instance; "" where the journal has none.
	Tenant string
}

// Belongs tells it of one instance.
func (jr *Journal) Belongs(instance string) (b Belonging, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		b, err = belongs(tx, instance)
		return err
	})
	return b, err
}

func belongs(tx *bbolt.Tx, instance string) (b Belonging, err error) {
	b.Here = true
	var known model.Content
	if _, err := get(tx, bucketContent, []byte(instance), &known); err != nil {
		return b, err
	}
	b.Known = known.Backup != ""
	active := tx.Bucket(bucketActive).Get([]byte(instance)) != nil
	id := tx.Bucket(bucketEnded).Get([]byte(instance))
	if id == nil {
		return b, nil
	}
	last, err := getJob(tx, string(id))
	if err != nil {
		return b, err
	}
	if last.IsRestore() {
		b.Known, b.Tenant = true, last.Tenant
	}
	switch {
	case active:
	case leftAll(last):
		// It did nothing to the volumes, so that the instance is where it was before. A claim
		// of such a job can stand all the same, where a crash came before the next state.
		b.Here = known.Backup != "" && !known.Released
	case last.IsRestore():
		b.Here = last.State != model.Failed || last.Restore.Placed
	default:
		b.Here = last.Entered[model.Released].IsZero()
	}
	return b, nil
}

// leftAll tells whether the job is a restore that failed and did nothing to the volumes.
func leftAll(j *model.Job) bool {
	return j.IsRestore() && j.State == model.Failed && (j.Restore == nil || !j.Restore.Placed && !j.Restore.Condemned)
}

// KeepsClaim tells whether the host keeps its claim on an instance. origin is the job by which the
// host came to have the claim. A restore that fails and does nothing to the volumes gives the host
// no claim: another host may be about to prepare the instance, and no release follows here.
func (jr *Journal) KeepsClaim(instance, origin string) (keeps bool, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		b, err := belongs(tx, instance)
		if keeps = b.Here; err != nil || !keeps {
			return err
		}
		if id := tx.Bucket(bucketActive).Get([]byte(instance)); id != nil {
			if active, err := getJob(tx, string(id)); err != nil || !active.IsRestore() {
				return err // a backup is of content that is here
			}
		}
		id := tx.Bucket(bucketEnded).Get([]byte(instance))
		if id == nil || origin == "" {
			return nil
		}
		last, err := getJob(tx, string(id))
		if err != nil || !leftAll(last) {
			return err
		}
		first, err := getJob(tx, origin)
		if errors.Is(err, model.ErrNotFound) {
			return nil // an operator, or a job that ended long ago
		}
		keeps = err != nil || !leftAll(first)
		return err
	})
	return keeps, err
}
