package job

import (
	"context"
	"maps"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

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

// markVolumes puts the mark of a stored backup on the volumes, and returns the edit by which the
// next state notes which of them bear it. The journal names the backup before: a crash in between
// leaves volumes with the mark of an earlier backup, and a job that marks them when it is resumed.
func (w *worker) markVolumes(hard context.Context, j *model.Job) func(j *model.Job) {
	if w.m.parts.Restorer == nil || j.Result == nil {
		return func(*model.Job) {}
	}
	ctx, cancel := acting(hard, actTimeout)
	defer cancel()
	r := j.Result
	var marked map[string]bool
	err := w.act(crashpoint.Mark, func() (err error) {
		c := model.Content{Backup: r.BackupID, Seq: r.Seq, Created: r.Created, Vault: r.VaultID, Tenant: j.Tenant}
		marked, err = w.m.parts.Restorer.Mark(ctx, j, c)
		return err
	})
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "mark the volumes with their backup", err)
	}
	return func(j *model.Job) {
		if j.Result == nil || len(marked) == 0 {
			return
		}
		roots := maps.Clone(j.Result.Roots)
		for volume, root := range roots {
			root.Marked = marked[volume]
			roots[volume] = root
		}
		j.Result.Roots = roots
	}
}
