package job

import (
	"context"
	"maps"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

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
