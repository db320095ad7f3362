package job

import "go.etcd.io/bbolt"

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
	var known Content
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
	case last.IsRestore() && last.State == Failed && (last.Restore == nil || !last.Restore.Placed && !last.Restore.Condemned):
		// It did nothing to the volumes, so that the instance is where it was before. A claim
		// of such a job can stand all the same, where a crash came before the next state.
		b.Here = known.Backup != "" && !known.Released
	case last.IsRestore():
		b.Here = last.State != Failed || last.Restore.Placed
	default:
		b.Here = last.Entered[Released].IsZero()
	}
	return b, nil
}
