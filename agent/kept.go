package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/metrics"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// The part of restores that is a job.Keeper.

// Count tells how things are without a call that is shared: the tree may be renamed meanwhile.
func (r restores) Count(ctx context.Context, p job.Place, path string) (string, job.Count, error) {
	type counted struct {
		identity string
		found    restore.Measure
	}
	got, err := act(ctx, &r.a.patience, p.Target, "counting the content of "+path, forEver, engineTime, func(ctx context.Context) (counted, error) {
		if err := fits(p); err != nil {
			return counted{}, err
		}
		identity, err := restore.Identify(path)
		if err != nil || identity == "" {
			return counted{}, err
		}
		found, err := restore.MeasureTree(ctx, path)
		return counted{identity, found}, err
	})
	f := got.found
	return got.identity, job.Count{Files: f.Files, Bytes: f.Bytes, Entries: f.Entries, Newest: f.Newest, Changed: f.Changed, Whole: f.Whole}, err
}

func (r restores) SetAside(p job.Place) error {
	return r.move(p, "renaming the replaced content", func(at restore.Place) error {
		if err := at.SetAside(); err != nil || restore.NoteFile(at.Stage) == restore.NoteFile(at.Aside) {
			return err
		}
		return dropNoteFile(at.Stage) // of content that a put-back brought back to its place
	})
}

func (r restores) TakeOut(p job.Place) error {
	return r.move(p, "taking the old volume out of its place", restore.Place.TakeOut)
}

func (r restores) Return(p job.Place) error {
	return r.move(p, "bringing the old volume back", restore.Place.Return)
}

// LiesAside fails where the folder of the place is another folder
// than before: a tree that is not in another folder need not be gone.
func (r restores) LiesAside(p job.Place) (string, error) {
	return act(context.Background(), &r.a.patience, p.Target, "looking for the kept content", lookTime, 0, func(context.Context) (string, error) {
		if err := fits(p); err != nil {
			return "", err
		}
		return placeOf(p).Lies()
	})
}

// reserve is the space that restores leave free on each file system.
func (a *Agent) reserve() *restore.Reserve {
	bytes, percent, most := a.cfg.Prepare.Reserve()
	return &restore.Reserve{Bytes: uint64(bytes), Percent: percent, Most: uint64(most), InodePercent: a.cfg.Prepare.MinFreeInodes}
}

func (r restores) Room(ctx context.Context, q job.RestoreRequest, freed map[string]job.Count) error {
	opened, err := r.a.vaults.existing(ctx, q.Tenant)
	if err != nil {
		return fmt.Errorf("open vault: %w", err)
	}
	ref := vault.BackupRef{Instance: q.Instance, ID: q.Backup}
	m, err := opened.Manifest(ctx, ref)
	if err != nil {
		return withOlder(ctx, opened, ref, err)
	}
	if _, err := matchVolumes(m, q.Places); err != nil {
		return err
	}
	var needs []restore.Need
	for _, p := range q.Places {
		v, err := m.Volume(p.Volume)
		if err != nil {
			return err
		}
		f := freed[p.Volume]
		needs = append(needs, restore.Need{
			Volume: p.Volume, Folder: filepath.Dir(p.Target), Bytes: v.Bytes, Entries: v.Entries, Freed: f.Bytes, FreedEntries: f.Entries,
		})
	}
	_, err = act(ctx, &r.a.patience, volumesOf(q.Places), "looking for room", lookTime, engineTime, func(context.Context) (struct{}, error) {
		return struct{}{}, restore.CheckRoom(needs, *r.a.reserve())
	})
	return r.a.short(err)
}

// short adds to an error that says that there is too little room the remedies.
func (a *Agent) short(err error) error {
	if !errors.Is(err, restore.ErrRoom) {
		return err
	}
	remedies := "remove content that nobody needs, lower prepare.min_free, or enlarge the file system"
	if kept, kerr := a.journal.Kept(); kerr == nil && len(kept) > 0 {
		var bytes uint64
		for _, s := range kept {
			bytes += s.Replaced.Bytes
		}
		remedies += fmt.Sprintf("; earlier restores have replaced %d bytes that are kept, which `holdfast kept list` shows and `holdfast kept remove INSTANCE` frees", bytes)
	}
	if !a.cfg.Prepare.InPlaceOrder {
		remedies += "; with prepare.in_place_order: true, old volumes of which a backup holds everything are removed before a restore that does not fit beside them"
	}
	return fmt.Errorf("%w: %w; %s", job.ErrRoom, err, remedies)
}

// The part of the service that is an api.Keeper.

// Kept implements api.Service.
func (s *service) Kept(context.Context, api.Caller) ([]api.KeptContent, error) {
	all, err := s.a.manager.Kept()
	if err != nil {
		return nil, err
	}
	list := make([]api.KeptContent, 0, len(all))
	for _, k := range all {
		age, _ := s.a.manager.KeptFor(&k)
		one := api.KeptContent{
			InstanceID: k.Instance, JobID: k.Job, Since: k.Since, Seconds: age.Seconds(), Left: max(0, s.a.cfg.Prepare.KeepReplaced-age).Seconds(),
			Files: k.Replaced.Files, Bytes: k.Replaced.Bytes, Newest: k.Replaced.Newest, AtLeast: k.Replaced.AtLeast,
			KnownBackup: k.Known.Backup, ReplacedBy: k.By, Removing: k.Removing, Adopted: k.Adopted, Partial: k.Partial, Error: k.Error,
		}
		for _, v := range k.Volumes {
			one.Volumes = append(one.Volumes, api.KeptVolume{Name: v.Place.Volume, Path: v.Place.Aside, From: v.Place.Target})
		}
		list = append(list, one)
	}
	return list, nil
}

// PutBack implements api.Service.
func (s *service) PutBack(_ context.Context, c api.Caller, id, jobID string) (api.TaskAnswer, error) {
	if s.a.cfg.Prepare.Refuse {
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeNoPermission, []string{id}, "this host is configured to refuse restores")
	}
	if _, err := s.visible(c, id); err != nil {
		return api.TaskAnswer{}, err
	}
	task, err := s.a.manager.PutBack(id, jobID)
	var busy *job.BusyError
	switch {
	case errors.As(err, &busy) && len(busy.Restoring) > 0:
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInRecovery, []string{id}, "is being restored")
	case errors.As(err, &busy):
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInBackup, []string{id}, "is being backed up")
	case err != nil:
		return api.TaskAnswer{}, keptRefusal(err)
	}
	answer := api.TaskAnswer{TaskID: task.ID}
	for _, ref := range task.Jobs {
		answer.Jobs = append(answer.Jobs, api.JobRef{InstanceID: ref.Instance, JobID: ref.Job})
	}
	return answer, nil
}

// RemoveKept implements api.Service. An instance that left the configuration may still have
// something that is kept.
func (s *service) RemoveKept(_ context.Context, _ api.Caller, id, jobID string) error {
	return keptRefusal(s.a.manager.RemoveKept(id, jobID))
}

// keptRefusal turns an error of the manager into an answer for operators.
func keptRefusal(err error) error {
	switch {
	case errors.Is(err, job.ErrDraining):
		return api.Busy(retryDraining, "this host is shutting down")
	case errors.Is(err, job.ErrQueueFull):
		return api.Busy(retryFull, "the queue of this host is full")
	case errors.Is(err, job.ErrNotFound), errors.Is(err, job.ErrAmbiguous), errors.Is(err, job.ErrState):
		return api.Refuse(api.CodeParameter, "%s", err.Error())
	case err != nil:
		return api.Refuse(api.CodeInternal, "%s", err.Error())
	}
	return nil
}

// keptFigures are the figures of the metrics.
func (a *Agent) keptFigures() (f metrics.KeptFigures) {
	all, err := a.manager.Kept()
	if err != nil {
		return f // the journal is closed
	}
	for _, k := range all {
		age, _ := a.manager.KeptFor(&k)
		f.Count, f.Bytes, f.Oldest = f.Count+1, f.Bytes+k.Replaced.Bytes, max(f.Oldest, age)
	}
	return f
}

// keptLate is how much longer than it should something may be kept in good order.
const keptLate = time.Hour

// sightOfKept finds kept content that makes trouble, or that lies on a disk that is short of room.
func (a *Agent) sightOfKept(ctx context.Context) (found []sighting) {
	all, err := a.manager.Kept()
	if err != nil {
		return nil // the journal is closed
	}
	for _, path := range a.manager.StrayKept() {
		found = append(found, sighting{
			name: troubleKept, what: path,
			err: errors.New("it has the name of kept content, and nothing tells whose content it is: look at it, and rename or remove it by hand"),
		})
	}
	looked := map[string]bool{}
	for _, k := range all {
		age, _ := a.manager.KeptFor(&k)
		late := age > a.cfg.Prepare.KeepReplaced+keptLate
		switch {
		case k.Error != "":
			found = append(found, sighting{name: troubleKept, instance: k.Instance, job: k.Job, err: errors.New(k.Error)})
		case late:
			found = append(found, sighting{name: troubleKept, instance: k.Instance, job: k.Job, err: fmt.Errorf("it is kept for %s, and should be for %s", roughly(age), a.cfg.Prepare.KeepReplaced)})
		}
		for _, v := range k.Volumes {
			folder := filepath.Dir(v.Place.Target)
			if looked[folder] {
				continue
			}
			looked[folder] = true
			_, err := ask(ctx, &a.patience, folder, "looking at the room", askTime, func(context.Context) (struct{}, error) {
				return struct{}{}, restore.Short(folder, *a.reserve())
			})
			if errors.Is(err, restore.ErrRoom) {
				found = append(found, sighting{name: troubleKeptRoom, instance: k.Instance, what: folder, err: err})
			}
		}
	}
	return found
}
