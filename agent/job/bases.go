package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// A base is a snapshot that stays after the engine has read it, or has restored its
// content, so that the next backup of its volume reads only the differences from it.
// Only the journal tells a base from a leftover. A base begins in the transaction that
// takes it out of its job's record, so a crash loses a base or keeps it, and leaks none.

// basesEvery is how often the agent looks at bases that no job touches:
// they pin the old blocks of everything that is written meanwhile.
const basesEvery = time.Hour

// dropBases removes the bases that the rules do not allow any more, the oldest first.
func (m *Manager) dropBases(ctx context.Context) {
	bases, err := m.journal.Bases("")
	if err != nil {
		m.parts.Observer.Trouble("", "", "look for base snapshots", err)
		return
	}
	for _, b := range bases {
		if ctx.Err() != nil {
			return
		}
		if m.mayKeep(ctx, b) {
			continue
		}
		forgotten, err := m.journal.ForgetBase(b)
		switch {
		case err != nil:
			m.parts.Observer.Trouble(b.Instance, "", "remove base snapshot "+b.Ref.Path, err)
		case forgotten:
			m.removeLeftover(ctx, model.Leftover{Instance: b.Instance, Ref: b.Ref, Since: m.opts.Now().UTC()})
		}
	}
}

func (m *Manager) mayKeep(ctx context.Context, b model.Base) bool {
	rules := m.opts.Bases
	if !rules.Keep || rules.MaxAge > 0 && m.journal.Up()-b.MadeUp > rules.MaxAge {
		return false
	}
	if _, err := m.parts.Instance(b.Instance); errors.Is(err, model.ErrNotFound) {
		return false
	}
	if rules.MinFree <= 0 || m.parts.Room == nil {
		return true
	}
	free, total, err := m.parts.Room(ctx, b)
	if errors.Is(err, ErrNoAnswer) {
		return true // where nothing can be looked at, nothing can be removed
	}
	// a base whose room can't be looked at is not kept
	return err == nil && float64(free) >= rules.MinFree*float64(total)
}

// toKeep returns the snapshots, out of the engine's snapshots, which become bases.
func (w *worker) toKeep(j *model.Job, snapshots []model.Snapshot, result *model.Result) []model.Base {
	if !w.m.opts.Bases.Keep || result == nil {
		return nil
	}
	return w.basesOf(j, snapshots, result.BackupID, result.Catalogues)
}

// basesOf makes bases of those snapshots of which a catalogue is
// known, and which can be compared with.
func (w *worker) basesOf(j *model.Job, snapshots []model.Snapshot, backup string, catalogues map[string]string) (bases []model.Base) {
	for _, s := range snapshots {
		if id := catalogues[s.Name]; s.Live && s.Comparable && id != "" {
			bases = append(bases, model.Base{
				Instance: j.Instance, Volume: s.Name, Ref: s.Ref, Ino: s.Ino, Backup: backup, Catalogue: id, Made: w.m.opts.Now().UTC(), MadeUp: w.m.journal.Up(),
			})
		}
	}
	return bases
}

// atEnd returns the snapshots that become bases at the end of a
// job that has stored a backup and did not release its instance.
func (w *worker) atEnd(hard context.Context, j *model.Job) []model.Base {
	if j.State != model.Resuming && j.State != model.Ending && j.State != model.Failing {
		return nil
	}
	kept := w.toKeep(j, j.Snapshots, j.Result)
	if len(kept) == 0 {
		return nil
	}
	instance, err := w.instance(j)
	if err != nil {
		return nil
	}
	return w.standing(j, kept, func(s model.Snapshot) (bool, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(hard), removeTimeout)
		defer cancel()
		return instance.Snapshots.Stands(ctx, s)
	})
}

// removeBases removes bases that the journal names no more.
func (w *worker) removeBases(bases []model.Base) {
	for _, b := range bases {
		_ = w.act(crashpoint.RemoveSnapshot, func() error {
			w.m.removeLeftover(context.Background(), model.Leftover{Instance: b.Instance, Job: w.id, Ref: b.Ref, Since: w.m.opts.Now().UTC()})
			return nil
		})
	}
}

// planRestored names the snapshots that are to become bases of the restored volumes with a
// catalogue. A base that can't be had costs the next backup time, and this restore nothing.
func (w *worker) planRestored(ctx context.Context, j *model.Job, places []model.Place, result *model.RestoreResult) []model.Snapshot {
	if !w.m.opts.Bases.Keep || len(result.Catalogues) == 0 {
		return nil
	}
	var planned []model.Snapshot
	instance, err := w.instance(j)
	if err == nil {
		planned, err = instance.Snapshots.PlanRestored(ctx, lastName(j), places)
	}
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "plan the base snapshots of the restored volumes", err)
	}
	return slices.DeleteFunc(planned, func(s model.Snapshot) bool { return result.Catalogues[s.Name] == "" })
}

// baseRestored makes the bases of restored volumes, and returns the bases that
// stand. They are made before the first volume is in its place: there the instance
// may write, and a base with more content than its catalogue tells would make a
// wrong backup. So once a volume is in its place, no base is made any more.
func (w *worker) baseRestored(ctx context.Context, j *model.Job, placed int) []model.Base {
	var standing []model.Snapshot
	for _, s := range j.Snapshots {
		var stands bool
		instance, err := w.instance(j)
		switch {
		case err != nil:
		case placed > 0:
			stands, err = instance.Snapshots.Stands(ctx, s)
		default:
			// An earlier life may have made it of a tree that was removed since.
			if err = instance.Snapshots.Remove(ctx, s.Ref); err == nil {
				err = w.act(crashpoint.Snapshot, func() error {
					made, err := instance.Snapshots.Create(ctx, snapshotName(j), s)
					if err == nil {
						s = made
					}
					return err
				})
			}
			stands = err == nil
		}
		if err != nil {
			w.m.parts.Observer.Lacked(j.Instance, j.ID, fmt.Sprintf("make the base snapshot of volume %q", s.Name), err)
		}
		if stands {
			standing = append(standing, s)
		}
	}
	return w.basesOf(j, standing, j.Restore.Backup, j.Restore.Result.Catalogues)
}
