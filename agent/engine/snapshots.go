package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/backup"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
)

// snapshotter makes and removes the snapshots of all instances. It is for any goroutine.
type snapshotter struct {
	log         *slog.Logger
	allowed     func() error // nil while the agent may act
	patience    *patience
	pool        *backup.Pool // is told which views may share blocks
	instances   *Instances
	lacked      func(instance, job, doing string, err error)
	spare       []string // see spare
	freezeLimit time.Duration
	// shared says that another state folder of this host may have snapshots with the same names.
	shared bool
}

// snapshots makes the snapshots of an instance's volumes.
type snapshots struct {
	*snapshotter
	in *Instance
}

func (s snapshots) request(jobID, volume string) (snapshot.Request, error) {
	v, err := s.in.volume(volume)
	if err != nil {
		return snapshot.Request{}, err
	}
	if err := steady(v.Path); err != nil {
		return snapshot.Request{}, fmt.Errorf("volume %q: %w: %w", v.Name, errVolumes, err)
	}
	return snapshot.Request{
		Volume: v.Path, Host: s.in.host, Job: jobID, Name: v.Name, Dir: v.SnapshotDir,
		Spare: s.spare, FreezeLimit: s.freezeLimit,
	}, nil
}

// Plan chooses the provider of each volume by its present storage.
func (s snapshots) Plan(ctx context.Context, jobID string) ([]model.Snapshot, error) {
	planned := make([]model.Snapshot, 0, len(s.in.cfg.Volumes))
	for _, v := range s.in.cfg.Volumes {
		snap, err := act(ctx, s.patience, v.Path, "planning the snapshot", planTime, EngineTime, func(ctx context.Context) (model.Snapshot, error) {
			return s.planOne(ctx, jobID, v)
		})
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		planned = append(planned, snap)
	}
	return planned, nil
}

func (s snapshots) planOne(ctx context.Context, jobID string, v config.Volume) (model.Snapshot, error) {
	r, err := s.request(jobID, v.Name)
	if err != nil {
		return model.Snapshot{}, err
	}
	provider, reason, err := snapshot.Detect(ctx, r, v.Snapshot)
	if err != nil {
		return model.Snapshot{}, err
	}
	if provider.InPlace() && v.Snapshot == config.SnapshotAuto {
		s.log.Info("a volume is read in place, and its instance is held meanwhile", keyInstance, s.in.cfg.ID, keyJob, jobID, "volume", v.Name, keyReason, reason)
	}
	return s.plan(ctx, provider, r)
}

// plan names the snapshot that a provider will make.
func (s snapshots) plan(ctx context.Context, provider snapshot.Provider, r snapshot.Request) (model.Snapshot, error) {
	ref, err := provider.Plan(ctx, r)
	if err != nil {
		return model.Snapshot{}, err
	}
	of, err := provider.Comparable(r.Volume)
	if err != nil {
		return model.Snapshot{}, err
	}
	kind, err := snapshot.KindOf(r.Volume)
	if err != nil {
		return model.Snapshot{}, err
	}
	return model.Snapshot{
		Name: r.Name, Ref: model.Ref(ref), Live: !provider.InPlace(), Held: provider.Costs(kind).Hold, Comparable: of, Warm: provider.InPlace() && tree.TellsChanges(r.Volume) == nil,
	}, nil
}

// PlanRestored plans for the volumes as they are at their stages.
// The references name them as they will be.
func (s snapshots) PlanRestored(ctx context.Context, jobID string, places []model.Place) (planned []model.Snapshot, err error) {
	var errs []error
	for _, p := range places {
		snap, err := act(ctx, s.patience, p.Target, "planning the base snapshot", planTime, EngineTime, func(ctx context.Context) (model.Snapshot, error) {
			return s.planRestored(ctx, jobID, p)
		})
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("volume %q: %w", p.Volume, err))
		case snap.Comparable:
			planned = append(planned, snap)
		}
	}
	return planned, errors.Join(errs...)
}

func (s snapshots) planRestored(ctx context.Context, jobID string, p model.Place) (model.Snapshot, error) {
	none := model.Snapshot{}
	v, err := s.in.volume(p.Volume)
	if err != nil {
		return none, err
	}
	if asked, err := snapshot.ByName(v.Snapshot); err == nil && asked.InPlace() {
		return none, nil
	}
	r := snapshot.Request{Volume: p.Stage, Host: s.in.host, Job: jobID, Name: v.Name, Dir: v.SnapshotDir}
	provider, _, err := snapshot.Detect(ctx, r, v.Snapshot)
	if err != nil {
		return none, err
	}
	if provider.InPlace() {
		return none, snapshot.Blocked(ctx, r)
	}
	if of, err := provider.Comparable(r.Volume); err != nil || !of {
		return none, err
	}
	ref, err := provider.Plan(ctx, r)
	if err != nil {
		return none, err
	}
	ref.Volume = v.Path
	return model.Snapshot{Name: v.Name, Ref: model.Ref(ref), Live: !provider.InPlace(), Comparable: true, At: p.Stage}, nil
}

// Create gives a snapshot up that is not made in time. It is removed should it be made later.
func (s snapshots) Create(ctx context.Context, jobID string, planned model.Snapshot) (model.Snapshot, error) {
	return act(ctx, s.patience, planned.Ref.Volume, "making the snapshot", snapshotTime, EngineTime, func(ctx context.Context) (model.Snapshot, error) {
		made, err := s.create(ctx, jobID, planned)
		if err == nil && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), s.removeNow(context.WithoutCancel(ctx), planned.Ref))
		}
		return made, err
	})
}

func (s snapshots) create(ctx context.Context, jobID string, planned model.Snapshot) (model.Snapshot, error) {
	if err := s.allowed(); err != nil {
		return model.Snapshot{}, err
	}
	r, err := s.request(jobID, planned.Name)
	if err != nil {
		return model.Snapshot{}, err
	}
	provider, err := snapshot.ByName(planned.Ref.Provider)
	if err != nil {
		return model.Snapshot{}, err
	}
	volume := r.Volume
	r.Volume = cmp.Or(planned.At, volume)
	clock, mounted := evidence.ClockOffset(), evidence.MountOf(r.Volume)
	taken := time.Now()
	made, err := provider.Create(ctx, r)
	if err != nil {
		return model.Snapshot{}, err
	}
	if err := s.flushed(jobID, planned.Name, made); err != nil {
		return model.Snapshot{}, errors.Join(err, provider.Remove(context.WithoutCancel(ctx), made.Ref))
	}
	made.Ref.Volume = volume
	if model.Ref(made.Ref) != planned.Ref {
		return model.Snapshot{}, fmt.Errorf("snapshot %s was planned as %s", made.Ref.Path, planned.Ref.Path)
	}
	// Only snapshots that the engine reads can share blocks, and there are few places for them.
	if made.Kind == snapshot.Image && !provider.InPlace() && planned.At == "" {
		// also while it is a base, for the images of other instances
		s.pool.BeginView(made.Ref.Path)
	}
	now := evidence.ClockOffset()
	planned.Root, planned.Taken, planned.Ino = cmp.Or(made.Root, made.Image), evidence.Earliest(taken, clock, now).UTC(), made.Ino
	// else somebody mounted something else meanwhile
	if planned.Clock = int64(now); mounted == evidence.MountOf(r.Volume) {
		planned.Mounted = mounted
	}
	return planned, nil
}

// Instead takes the next provider where the configuration leaves the choice to the agent.
func (s snapshots) Instead(ctx context.Context, jobID string, failed model.Snapshot, why error) (planned model.Snapshot, means string, ok bool) {
	v, err := s.in.volume(failed.Name)
	if err != nil || v.Snapshot != config.SnapshotAuto || errors.Is(why, errUnflushed) || failed.At != "" {
		return planned, "", false
	}
	planned, err = act(ctx, s.patience, v.Path, "planning another snapshot", planTime, EngineTime, func(ctx context.Context) (model.Snapshot, error) {
		r, err := s.request(jobID, v.Name)
		if err != nil {
			return model.Snapshot{}, err
		}
		provider, _, err := snapshot.Next(ctx, r, failed.Ref.Provider)
		if err != nil {
			return model.Snapshot{}, err
		}
		kind, err := snapshot.KindOf(v.Path)
		if err != nil {
			return model.Snapshot{}, err
		}
		means = fmt.Sprintf("%s takes its place, and the instance is held %s", provider.Name(), provider.Costs(kind).Hold)
		return s.plan(ctx, provider, r)
	})
	if err != nil {
		return model.Snapshot{}, "", false
	}
	return planned, means, true
}

// errUnflushed says that a view may lack the last writes to
// something that is mounted on the volume; so may any other view.
var errUnflushed = errors.New("the snapshot may lack what was written last")

// flushed fails for a view that may lack writes to something that is mounted on the volume,
// unless the configuration accepts that: nothing may be released on it (Invariant nothing-lost).
func (s snapshots) flushed(jobID, volume string, made *snapshot.Snapshot) error {
	if len(made.Unflushed) == 0 {
		return nil
	}
	v, err := s.in.volume(volume)
	if err != nil {
		return err
	}
	lacks := errors.New(strings.Join(made.Unflushed, "; "))
	if v.AcceptUnflushed {
		s.lacked(s.in.cfg.ID, jobID, fmt.Sprintf("flush what is mounted on volume %q (accept_unflushed is set)", volume), lacks)
		return nil
	}
	return fmt.Errorf("%w: %w (accept_unflushed: true of the volume lets the job go on)", errUnflushed, lacks)
}

func (s snapshots) Stands(ctx context.Context, snap model.Snapshot) (bool, error) {
	provider, err := snapshot.ByName(snap.Ref.Provider)
	if err != nil {
		return false, err
	}
	return ask(ctx, s.patience, snap.Ref.Volume, "looking for the snapshot "+snap.Ref.Path, lookTime, func(ctx context.Context) (bool, error) {
		return provider.Stands(ctx, snapshot.Ref(snap.Ref))
	})
}

func (s snapshots) Remove(ctx context.Context, ref model.Ref) error {
	return s.remove(ctx, ref)
}

// remove waits for the removal for as long as removeTime,
// and not beyond the end of ctx; it goes on after that.
func (s *snapshotter) remove(ctx context.Context, ref model.Ref) error {
	// Under a name of its own: what hangs on the volume may hang
	// since this view freezes its file system.
	_, err := ask(ctx, s.patience, ref.Provider+" "+cmp.Or(ref.Path, ref.Volume), "removing the snapshot", removeTime, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.removeNow(ctx, ref)
	})
	return err
}

func (s *snapshotter) removeNow(ctx context.Context, ref model.Ref) error {
	if err := s.allowed(); err != nil {
		return err
	}
	provider, err := snapshot.ByName(ref.Provider)
	if err != nil {
		return err
	}
	if ref.Path != "" {
		s.pool.EndView(ref.Path) // from here on its blocks may become something else
	}
	return provider.Remove(ctx, snapshot.Ref(ref))
}

// leftovers lists the snapshots of this host beside all configured volumes. Where a
// volume can't be looked at, the others are listed all the same. All volumes are looked
// at together: volumes that do not answer keep nobody waiting for longer than one.
func (s *snapshotter) leftovers(ctx context.Context) ([]model.Ref, error) {
	if s.shared {
		return nil, nil // a snapshot with this host's name may be the view that the other folder's agent reads
	}
	var mu sync.Mutex
	var refs []model.Ref
	var errs []error
	seen := map[string]bool{}
	group, ctx := contain.WithContext(ctx)
	for _, in := range s.instances.All() {
		for _, v := range in.cfg.Volumes {
			group.Go(func() error {
				found, err := s.leftoversOf(ctx, snapshot.Request{Volume: v.Path, Host: in.host, Name: v.Name, Dir: v.SnapshotDir})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, fmt.Errorf("volume %q of %q: %w", v.Name, in.cfg.ID, err))
				}
				for _, ref := range found {
					if !seen[ref.Path] {
						seen[ref.Path] = true
						refs = append(refs, model.Ref(ref))
					}
				}
				return nil
			})
		}
	}
	errs = append(errs, group.Wait())
	return refs, errors.Join(errs...)
}

// leftoversOf lists the snapshots of this host in the place that
// the request names; none for a volume that is not there.
func (s *snapshotter) leftoversOf(ctx context.Context, r snapshot.Request) ([]snapshot.Ref, error) {
	return ask(ctx, s.patience, r.Volume, "looking for leftover snapshots", leftoverTime, func(ctx context.Context) ([]snapshot.Ref, error) {
		if _, err := os.Stat(r.Volume); errors.Is(err, os.ErrNotExist) {
			return nil, nil // not restored to this host
		}
		return snapshot.Leftovers(ctx, r)
	})
}

// room tells how much space there is where a base lies.
func (s *snapshotter) room(ctx context.Context, b model.Base) (free, total int64, err error) {
	in, err := s.instances.known(b.Instance)
	if err != nil {
		return 0, 0, err
	}
	r, err := snapshots{s, in}.request("", b.Volume)
	if err != nil {
		return 0, 0, err
	}
	provider, err := snapshot.ByName(b.Ref.Provider)
	if err != nil {
		return 0, 0, err
	}
	type room struct{ free, total int64 }
	got, err := ask(ctx, s.patience, r.Volume, "looking at the space of "+b.Ref.Provider, askTime, func(ctx context.Context) (room, error) {
		free, total, err := provider.Room(ctx, r)
		return room{free, total}, err
	})
	return got.free, got.total, err
}

// thawStored lets file systems go that were frozen for a backup which is stored now: everybody who
// writes to them waits, and the report may take hours to be acknowledged. The instance stays held.
func (s *snapshotter) thawStored(ctx context.Context, sources []job.Source) error {
	for _, source := range sources {
		if source.Ref.Provider != snapshot.NameFsFreeze {
			continue
		}
		if err := s.remove(ctx, source.Ref); err != nil {
			return err
		}
	}
	return nil
}
