package agent

import (
	"context"
	"fmt"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/backup"
	"holdfast/internal/backup/known"
	"holdfast/internal/snapshot"
)

// useBases compares the sources, which are the sources of r in the same order,
// with the base snapshots that r names, and gives each source its usable base.
// A base that can't serve costs a full read and no more. The returned function
// frees the resources of the comparisons; it is due once the backup has ended.
func (a *Agent) useBases(ctx context.Context, r job.BackupRequest, sources []backup.Source) (free func()) {
	var open []*snapshot.Changes
	for i, s := range r.Sources {
		if s.Base == nil {
			continue
		}
		changes, err := compare(ctx, s)
		if err != nil {
			a.log.Debug("base snapshot can't be used, the backup goes by times of change", keyInstance, r.Instance, keyJob, r.Job,
				"volume", s.Volume, keyReason, err.Error())
			continue
		}
		open = append(open, changes)
		sources[i].Base = &known.Base{Catalogue: s.Base.Catalogue, Changes: changes}
	}
	return func() {
		for _, c := range open {
			_ = c.Close() // only read
		}
	}
}

// compare tells what may differ between the base of a source and the source.
func compare(ctx context.Context, s job.Source) (*snapshot.Changes, error) {
	if s.Ref.Provider != s.Base.Ref.Provider {
		return nil, fmt.Errorf("%w: %s made it, and %s the new snapshot", snapshot.ErrBase, s.Base.Ref.Provider, s.Ref.Provider)
	}
	provider, err := snapshot.ByName(s.Ref.Provider)
	if err != nil {
		return nil, err
	}
	kind, err := snapshot.KindOf(s.Root)
	if err != nil {
		return nil, err
	}
	now := &snapshot.Snapshot{Ref: snapshot.Ref(s.Ref), Kind: kind}
	if now.Root = s.Root; kind == snapshot.Image {
		now.Root, now.Image = "", s.Root
	}
	return provider.Changed(ctx, snapshot.Base{Ref: snapshot.Ref(s.Base.Ref), Ino: s.Base.Ino}, now)
}

// room tells how much space there is where a base lies.
func (a *Agent) room(ctx context.Context, b model.Base) (free, total int64, err error) {
	in := a.instances[b.Instance]
	if in == nil {
		return 0, 0, fmt.Errorf("instance %q is not in the configuration: %w", b.Instance, model.ErrNotFound)
	}
	r, err := snapshots{a, in}.request("", b.Volume)
	if err != nil {
		return 0, 0, err
	}
	provider, err := snapshot.ByName(b.Ref.Provider)
	if err != nil {
		return 0, 0, err
	}
	type room struct{ free, total int64 }
	got, err := ask(ctx, &a.patience, r.Volume, "looking at the space of "+b.Ref.Provider, askTime, func(ctx context.Context) (room, error) {
		free, total, err := provider.Room(ctx, r)
		return room{free, total}, err
	})
	return got.free, got.total, err
}
