package journal

import (
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Content returns which backup the instance's volumes on this host
// come from; zero when none is known.
func (jr *Journal) Content(instance string) (c model.Content, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketContent, []byte(instance), &c)
		return err
	})
	return c, err
}

// KnownIn returns an instance of which a backup in the vault of that id was
// made or restored here, and the last such backup; "" when there is none.
func (jr *Journal) KnownIn(vault string) (instance string, c model.Content, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketContent).ForEach(func(k, v []byte) error {
			var one model.Content
			if err := json.Unmarshal(v, &one); err != nil {
				return fmt.Errorf("journal: decode content of %q: %w", k, err)
			}
			if instance == "" && one.Vault == vault {
				instance, c = string(k), one
			}
			return nil
		})
	})
	return instance, c, err
}

// Ended returns the last job of the instance that is over, of
// either kind and however it ended; nil when there is none.
func (jr *Journal) Ended(instance string) (last *model.Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		id := tx.Bucket(bucketEnded).Get([]byte(instance))
		if id == nil {
			return nil
		}
		last, err = getJob(tx, string(id))
		return err
	})
	return last, err
}

// noteContent writes, in the transaction of the state, which backup
// an instance's volumes come from since then.
func noteContent(tx *bbolt.Tx, j *model.Job) error {
	switch {
	case j.Result != nil && (j.State == model.Stored || j.State == model.Reported || j.State == model.Resuming || j.State == model.Released || j.State == model.Failing):
		r := j.Result
		c := model.Content{
			Backup: r.BackupID, Seq: r.Seq, Created: r.Created, Vault: r.VaultID, Tenant: j.Tenant,
			Released: j.State == model.Released, Volumes: r.Roots,
		}
		return put(tx, bucketContent, []byte(j.Instance), c)
	case j.State == model.Restored && j.Restore != nil:
		r := j.Restore
		if r.Known != nil {
			return put(tx, bucketContent, []byte(j.Instance), r.Known)
		}
		c := model.Content{Backup: r.Backup, Seq: r.Seq, Created: r.Created, Vault: r.Vault, Tenant: j.Tenant}
		if r.Result != nil {
			c.Volumes = r.Result.Roots
		}
		return put(tx, bucketContent, []byte(j.Instance), c)
	case j.Restore != nil && j.Restore.Ready && (j.State == model.Done || j.State == model.Starting):
		return noteHere(tx, j.Instance)
	}
	return nil
}

// noteHere writes that an instance is in use on this host again, with the content that lies here:
// what it changes from now on is its own, although the instance was released on a backup before.
func noteHere(tx *bbolt.Tx, instance string) error {
	var c model.Content
	if found, err := get(tx, bucketContent, []byte(instance), &c); err != nil || !found || !c.Released {
		return err
	}
	c.Released = false
	return put(tx, bucketContent, []byte(instance), c)
}

// doubtContent notes that nobody knows the content of the volumes after a job that was given up,
// unless the job was a backup for sure, which changes no volume, or all volumes were in place.
func doubtContent(tx *bbolt.Tx, j *model.Job, from model.State) error {
	if j.Kind == model.KindBackup && from != model.Unknown || j.Restore != nil && j.Restore.Placed {
		return nil
	}
	var c model.Content
	if _, err := get(tx, bucketContent, []byte(j.Instance), &c); err != nil {
		return err
	}
	c.Doubt = fmt.Sprintf("job %s was given up while it was %s", j.ID, from)
	return put(tx, bucketContent, []byte(j.Instance), c)
}

// RecallContent journals content that marks tell of, unless
// the journal knows another backup by now.
func (jr *Journal) RecallContent(instance, before string, found model.Content) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var c model.Content
		if _, err := get(tx, bucketContent, []byte(instance), &c); err != nil || c.Backup != before {
			return err
		}
		found.Doubt = c.Doubt
		return put(tx, bucketContent, []byte(instance), found)
	})
}

// DecideFork journals a decision about the fork of a job, in whatever state the job is.
func (jr *Journal) DecideFork(id string, d model.ForkDecision) error {
	return jr.update(func(tx *bbolt.Tx) error {
		j, err := getJob(tx, id)
		if err != nil {
			return err
		}
		j.Fork = d
		return put(tx, bucketJobs, []byte(id), j)
	})
}

// maxTried bounds the backups that the journal remembers of tries that nobody heard of.
const maxTried = 64

// NoteTried journals the id of a backup that is about to be written, of the
// volumes of the instance. Should the process die before it journals
// that the backup is stored, the next one may find it in the vault.
func (jr *Journal) NoteTried(instance, backup string) error {
	return jr.update(func(tx *bbolt.Tx) error {
		var c model.Content
		if _, err := get(tx, bucketContent, []byte(instance), &c); err != nil {
			return err
		}
		c.Tried = append(c.Tried, backup)
		if n := len(c.Tried); n > maxTried {
			c.Tried = slices.Clone(c.Tried[n-maxTried:])
		}
		return put(tx, bucketContent, []byte(instance), c)
	})
}
