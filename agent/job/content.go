package job

import (
	"context"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/internal/crashpoint"
)

// Content says which backup the volumes of an instance on this host hold, or
// have come from: the last that was made of them or restored to them here.
type Content struct {
	Backup  string    `json:"backup_id"`
	Seq     uint64    `json:"sequence"` // orders the backups of an instance
	Created time.Time `json:"created"`  // for people
	Vault   string    `json:"vault,omitempty"`
	Tenant  string    `json:"tenant,omitempty"` // whose backup it is
	// Released says that the instance was powered down on this backup, so that another host may
	// have it: what changed on the volumes afterwards is not the instance's.
	Released bool `json:"released,omitempty"`
	// Volumes has, by name, what identifies the content of each volume. Of a backup that is only
	// named by the vault it has Kind and Entries.
	Volumes map[string]Root `json:"volumes,omitempty"`
	// Tried are ids of backups that were made of the volumes since, and
	// of which nobody heard whether they are stored, the oldest first.
	Tried []string `json:"tried,omitempty"`
	// Doubt says why the content of the volumes is not known; "" where it is known
	Doubt string `json:"doubt,omitempty"`
}

// Root identifies the content of one volume: which folder or file the volume is, and its content.
type Root struct {
	Kind string `json:"kind,omitempty"` // KindFolder or KindImage; "" is not known
	// Entries counts the entries of the volume in the backup that are no folders, or the
	// bytes of an image. 0 says that the volume is empty in the backup, if Kind is known.
	Entries uint64 `json:"entries"`
	// Size and Modified are the size (bytes) and the time (ns since 1970)
	// of an image file when it was backed up or restored; 0 is not known.
	Size     int64 `json:"size,omitempty"`
	Modified int64 `json:"modified,omitempty"`
	// FileSystem and Handle tell which folder or file it is, also after a reboot; opaque here.
	FileSystem string `json:"file_system,omitempty"`
	Handle     string `json:"handle,omitempty"`
	// Catalogue is the id of the engine's catalogue of the backup's entries on this host.
	Catalogue string `json:"catalogue,omitempty"`
	// Marked says that the volume has borne the mark of this backup. Else a mark
	// that is missing, or of an earlier backup, says nothing.
	Marked bool `json:"marked,omitempty"`
}

// The kinds of volumes.
const (
	KindFolder = "folder"
	KindImage  = "image"
)

// noteContent writes, in the transaction of the state, which backup
// an instance's volumes come from since then.
func noteContent(tx *bbolt.Tx, j *Job) error {
	switch {
	case j.Result != nil && (j.State == Stored || j.State == Reported || j.State == Resuming || j.State == Released || j.State == Failing):
		r := j.Result
		c := Content{
			Backup: r.BackupID, Seq: r.Seq, Created: r.Created, Vault: r.VaultID, Tenant: j.Tenant,
			Released: j.State == Released, Volumes: r.Roots,
		}
		return put(tx, bucketContent, []byte(j.Instance), c)
	case j.State == Restored && j.Restore != nil:
		r := j.Restore
		if r.Known != nil {
			return put(tx, bucketContent, []byte(j.Instance), r.Known)
		}
		c := Content{Backup: r.Backup, Seq: r.Seq, Created: r.Created, Vault: r.Vault, Tenant: j.Tenant}
		if r.Result != nil {
			c.Volumes = r.Result.Roots
		}
		return put(tx, bucketContent, []byte(j.Instance), c)
	case j.Restore != nil && j.Restore.Ready && (j.State == Done || j.State == Starting):
		return noteHere(tx, j.Instance)
	}
	return nil
}

// noteHere writes that an instance is in use on this host again, with the content that lies here:
// what it changes from now on is its own, although the instance was released on a backup before.
func noteHere(tx *bbolt.Tx, instance string) error {
	var c Content
	if found, err := get(tx, bucketContent, []byte(instance), &c); err != nil || !found || !c.Released {
		return err
	}
	c.Released = false
	return put(tx, bucketContent, []byte(instance), c)
}

// markVolumes puts the mark of a stored backup on the volumes, and returns the edit by which the
// next state notes which of them bear it. The journal names the backup before: a crash in between
// leaves volumes with the mark of an earlier backup, and a job that marks them when it is resumed.
func (w *worker) markVolumes(hard context.Context, j *Job) func(j *Job) {
	if w.m.parts.Restorer == nil || j.Result == nil {
		return func(*Job) {}
	}
	ctx, cancel := acting(hard, actTimeout)
	defer cancel()
	r := j.Result
	var marked map[string]bool
	err := w.act(crashpoint.Mark, func() (err error) {
		c := Content{Backup: r.BackupID, Seq: r.Seq, Created: r.Created, Vault: r.VaultID, Tenant: j.Tenant}
		marked, err = w.m.parts.Restorer.Mark(ctx, j, c)
		return err
	})
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "mark the volumes with their backup", err)
	}
	return func(j *Job) {
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
