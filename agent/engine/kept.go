package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// The part of restores that is a job.Keeper.

// Count tells how things are without a call that is shared: the tree may be renamed meanwhile.
func (r restores) Count(ctx context.Context, p model.Place, path string) (string, model.Count, error) {
	type counted struct {
		identity string
		found    restore.Measure
	}
	got, err := act(ctx, r.patience, p.Target, "counting the content of "+path, forEver, EngineTime, func(ctx context.Context) (counted, error) {
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
	return got.identity, model.Count(got.found), err
}

func (r restores) SetAside(p model.Place) error {
	return r.move(p, "renaming the replaced content", func(at restore.Place) error {
		if err := at.SetAside(); err != nil || restore.NoteFile(at.Stage) == restore.NoteFile(at.Aside) {
			return err
		}
		return dropNoteFile(at.Stage) // of content that a put-back brought back to its place
	})
}

func (r restores) TakeOut(p model.Place) error {
	return r.move(p, "taking the old volume out of its place", restore.Place.TakeOut)
}

func (r restores) Return(p model.Place) error {
	return r.move(p, "bringing the old volume back", restore.Place.Return)
}

// LiesAside fails where the folder of the place is another folder
// than before: a tree that is not in another folder need not be gone.
func (r restores) LiesAside(p model.Place) (string, error) {
	return act(context.Background(), r.patience, p.Target, "looking for the kept content", lookTime, 0, func(context.Context) (string, error) {
		if err := fits(p); err != nil {
			return "", err
		}
		return placeOf(p).Lies()
	})
}

// reserveOf is the space that restores leave free on each file system.
func reserveOf(p config.Prepare) restore.Reserve {
	bytes, percent, most := p.Reserve()
	return restore.Reserve{Bytes: uint64(bytes), Percent: percent, Most: uint64(most), InodePercent: p.MinFreeInodes}
}

func (r restores) Room(ctx context.Context, q job.RestoreRequest, freed map[string]model.Count) error {
	opened, err := r.vaults.Existing(ctx, q.Tenant)
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
	_, err = act(ctx, r.patience, volumesOf(q.Places), "looking for room", lookTime, EngineTime, func(context.Context) (struct{}, error) {
		return struct{}{}, restore.CheckRoom(needs, r.reserve)
	})
	return r.short(err)
}

// short adds to an error that says that there is too little room the remedies.
func (r restores) short(err error) error {
	if !errors.Is(err, restore.ErrRoom) {
		return err
	}
	remedies := "remove content that nobody needs, lower prepare.min_free, or enlarge the file system"
	if kept, kerr := r.kept(); kerr == nil && len(kept) > 0 {
		var bytes uint64
		for _, s := range kept {
			bytes += s.Replaced.Bytes
		}
		remedies += fmt.Sprintf("; earlier restores have replaced %d bytes that are kept, which `holdfast kept list` shows and `holdfast kept remove INSTANCE` frees", bytes)
	}
	if !r.inPlaceOrder {
		remedies += "; with prepare.in_place_order: true, old volumes of which a backup holds everything are removed before a restore that does not fit beside them"
	}
	return fmt.Errorf("%w: %w; %s", job.ErrRoom, err, remedies)
}
