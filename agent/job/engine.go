package job

import (
	"context"
	"slices"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// engine runs the backup engine over snapshots that stand.
func (w *worker) engine(ctx context.Context, j *model.Job, snapshots []model.Snapshot, precopy bool) (result *model.Result, err error) {
	packs, err := w.m.journal.Packs(j.ID)
	if err != nil {
		return nil, err
	}
	w.tried = true
	r := BackupRequest{
		Job: j.ID, Task: j.Task, Instance: j.Instance, Tenant: j.Tenant, Kept: j.Kept, Precopy: precopy, Deadline: j.Deadline, Resume: packs,
		PackIntent: func(pack string) error {
			return w.act(crashpoint.WritePack, func() error { return w.m.journal.AddPack(j.ID, pack) })
		},
		Progress: func(p model.Progress) { w.progressed(j, p) },
	}
	if !precopy {
		r.Sent = w.ticket.leave // another job may have the turn while this one finishes
		r.Accept = func(ctx context.Context) error { return w.ranMeanwhile(ctx, j) }
		if r.Content, err = w.m.journal.Content(j.Instance); err != nil {
			return nil, err
		}
		r.BackupIntent = func(id string) error {
			return w.act(crashpoint.WriteBackup, func() error { return w.m.journal.NoteTried(j.Instance, id) })
		}
	}
	bases, err := w.m.journal.Bases(j.Instance)
	if err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		source := Source{Volume: s.Name, Root: s.Root}
		if !readInPlace(j, s) {
			source.Taken, source.Ref, source.Mounted, source.Clock = s.Taken, s.Ref, s.Mounted, s.Clock
		}
		if i := slices.IndexFunc(bases, func(b model.Base) bool { return b.Volume == s.Name && b.Ref.Path != s.Ref.Path }); i >= 0 && s.Live {
			source.Base = &bases[i]
		}
		r.Sources = append(r.Sources, source)
	}
	err = w.act(crashpoint.Upload, func() error {
		result, err = w.m.parts.Backuper.Backup(ctx, r)
		return err
	})
	return result, err
}
