package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// A host with room for one copy of an instance only can't build the new volumes beside the old
// ones. Where the configuration says so (Options.InPlaceOrder), and the decision says for certain
// that a backup holds the old content, the old volumes are removed first.
//
// That has two steps, so that a crash or a failure leaves all volumes or none. First all old
// volumes are renamed, and each is compared with its figures at the decision; until the last is,
// all of them go back. Then the journal says that they are condemned, and from there on all are
// removed, whatever becomes of the restore: the next prepare finds every volume missing, and
// restores.

// roomPatience is how long a restore waits for the room of the volumes that it has removed: a file
// system may give that back only some seconds later.
const roomPatience = 2 * time.Minute

// planRoom looks whether the restore fits, and where it does not, whether it does so once the old
// volumes are removed and may be; olds has the identities of the old volumes. It changes
// nothing on the host. An error wraps ErrRoom.
func (w *worker) planRoom(ctx context.Context, j *model.Job, r *model.Restore, olds map[string]string) error {
	q := RestoreRequest{Instance: j.Instance, Tenant: j.Tenant, Backup: r.Backup, Places: r.Places}
	short := w.m.parts.Restorer.Room(ctx, q, nil)
	switch {
	case !errors.Is(short, ErrRoom):
		return short
	case !w.m.opts.InPlaceOrder:
		return short
	case !r.Certain:
		return fmt.Errorf("%w; prepare.in_place_order can't remove the old volumes first, since they may be newer than the newest backup. "+
			"Back the instance up, or look at its volumes and move them away by hand", short)
	}
	freed := map[string]model.Count{}
	var out []model.Place
	for _, p := range r.Places {
		if olds[p.Volume] == "" {
			continue
		}
		if !p.Was.Whole {
			return fmt.Errorf("%w; prepare.in_place_order can't remove the old volumes first, since %q is too large to be compared again before that; "+
				"remove it by hand", short, p.Target)
		}
		freed[p.Volume] = p.Was
		p.Old, p.Aside = olds[p.Volume], asideOf(p, j.ID)
		out = append(out, p)
	}
	if err := w.m.parts.Restorer.Room(ctx, q, freed); err != nil {
		return fmt.Errorf("also without the old volumes: %w", err)
	}
	r.Out = out
	return nil
}

// makeRoom takes all old volumes out of their places, condemns them and removes them.
func (w *worker) makeRoom(ctx context.Context, j *model.Job) error {
	if len(j.Restore.Out) == 0 {
		return nil
	}
	if !j.Restore.Condemned {
		if err := w.takeOut(ctx, j); err != nil {
			return err
		}
		err := w.writeChecked(j, model.Restoring, notCancelled, journal.Change{Edit: func(j *model.Job) { j.Restore.Condemned = true }, DropBases: true})
		if err != nil {
			return err
		}
		j.Restore.Condemned = true
	}
	for _, p := range j.Restore.Out {
		if err := w.act(crashpoint.RemoveOld, func() error { return w.m.removeTree(p) }); err != nil {
			return fmt.Errorf("remove the old volume %q: %w", p.Volume, err)
		}
	}
	if err := w.outEmpty(ctx, j); err != nil {
		return err
	}
	q := RestoreRequest{Instance: j.Instance, Tenant: j.Tenant, Backup: j.Restore.Backup, Places: j.Restore.Places}
	for began := time.Now(); ; {
		err := w.m.parts.Restorer.Room(ctx, q, nil)
		if !errors.Is(err, ErrRoom) || time.Since(began) > roomPatience {
			return err
		}
		if err := sleep(ctx, firstPause); err != nil {
			return err
		}
	}
}

// takeOut renames all old volumes. With an error the caller undoes that, see bringBack.
func (w *worker) takeOut(ctx context.Context, j *model.Job) error {
	if err := w.mayMove(ctx, j); err != nil {
		return err
	}
	if err := w.outThere(j); err != nil {
		return err
	}
	for _, p := range j.Restore.Out {
		w.noteOld(j, p)
		if err := w.act(crashpoint.TakeOut, func() error { return w.m.parts.Restorer.TakeOut(p) }); err != nil {
			return fmt.Errorf("take the old volume %q out of its place: %w", p.Volume, err)
		}
	}
	// Nothing finds the volumes at these names, so nothing changes after this look.
	for _, p := range j.Restore.Out {
		old, now, err := w.m.parts.Restorer.Count(ctx, p, p.Aside)
		if err != nil {
			return fmt.Errorf("volume %q: %w", p.Volume, err)
		}
		if old != p.Old || !p.Was.Same(now) {
			return fmt.Errorf("the old volume %q has changed since the restore began, so it may be newer than every backup and is not removed", p.Volume)
		}
	}
	return nil
}

// bringBack undoes takeOut, as long as the old volumes are not condemned.
func (w *worker) bringBack(j *model.Job) error {
	if j.Restore.Condemned {
		return nil
	}
	for _, p := range slices.Backward(j.Restore.Out) {
		if lost, err := w.outLost(p); lost || err != nil {
			if err != nil {
				return fmt.Errorf("look for the old volume %q: %w", p.Volume, err)
			}
			continue
		}
		if err := w.act(crashpoint.Return, func() error { return w.m.parts.Restorer.Return(p) }); err != nil {
			return fmt.Errorf("bring the old volume %q back: %w", p.Volume, err)
		}
	}
	return nil
}

// withoutVolumes adds to an error of a restore that the instance has no volumes here any more.
func withoutVolumes(r *model.Restore, err error) error {
	if err == nil || !r.Condemned {
		return err
	}
	return fmt.Errorf("%w; the old volumes were removed first (prepare.in_place_order), so the instance has none here; the next prepare restores backup %s",
		err, r.Backup)
}
