package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/agent/runtime"
	"holdfast/internal/contain"
	"holdfast/internal/evidence"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
)

// instance is one configured instance with its driver.
type instance struct {
	cfg     *config.Instance
	index   int // in the configuration
	host    string
	runtime runtime.Instance
}

func newInstance(cfg *config.Instance, host string) (*instance, error) {
	c := runtime.Config{Kind: cfg.Runtime.Kind()}
	if d := cfg.Runtime.Docker; d != nil {
		c.Docker = runtime.DockerConfig{Host: d.Host, Container: d.Container, Timeout: d.Timeout, StopTimeout: d.StopTimeout}
	}
	if e := cfg.Runtime.Exec; e != nil {
		c.Exec = runtime.ExecConfig{
			Instance: cfg.ID, Freeze: e.Freeze, Thaw: e.Thaw, PowerDown: e.PowerDown, Start: e.Start, State: e.State, Timeout: e.Timeout,
		}
	}
	driver, err := runtime.New(c)
	if err != nil {
		return nil, err
	}
	return &instance{cfg: cfg, host: host, runtime: driver}, nil
}

// state tells how the instance is: the very instance that its unfinished job
// holds, also under another name. Unknown when the runtime does not say.
func (in *instance) state(ctx context.Context, active *model.Job) model.RuntimeState {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	of := in.runtime
	if active != nil && active.Identity != "" {
		of = of.Of(active.Identity)
	}
	sight, err := of.State(ctx)
	if err != nil {
		return model.IsUnknown
	}
	return sight.State
}

func (a *Agent) jobInstance(id string) (job.Instance, error) {
	in := a.instances[id]
	if in == nil {
		return job.Instance{}, fmt.Errorf("instance %q is not in the configuration: %w", id, model.ErrNotFound)
	}
	return a.partsOf(in), nil
}

func (a *Agent) partsOf(in *instance) job.Instance {
	return job.Instance{
		ID: in.cfg.ID, Tenant: in.cfg.Tenant, Policy: model.Policy(in.cfg.Release), Mode: model.Mode(in.cfg.Hold), Holds: in.runtime.Holds(),
		Runtime: a.runtimeOf(in.runtime), Snapshots: snapshots{a, in}, Keep: in.keep(),
	}
}

// driver is a runtime.Instance as agent/job wants it.
type driver struct{ runtime.Instance }

func (d driver) Of(id string) job.Runtime { return driver{d.Instance.Of(id)} }

func (d driver) KeepDown(ctx context.Context) error {
	err := d.Instance.KeepDown(ctx)
	if errors.Is(err, runtime.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", job.ErrNoKeeping, err)
	}
	return err
}

// Stop ends the instance in its own way, as a driver powers down a running
// instance. It stays down, also when its engine restarts meanwhile.
func (d driver) Stop(ctx context.Context) error {
	err := d.Instance.PowerDown(ctx, nil)
	if err == nil {
		err = d.Instance.KeepDown(ctx)
	}
	if errors.Is(err, runtime.ErrUnsupported) {
		err = nil // an instance that comes up is noticed
	}
	return err
}

// snapshots makes the snapshots of an instance's volumes.
type snapshots struct {
	a  *Agent
	in *instance
}

func (s snapshots) volume(name string) (config.Volume, error) {
	i := slices.IndexFunc(s.in.cfg.Volumes, func(v config.Volume) bool { return v.Name == name })
	if i < 0 {
		return config.Volume{}, fmt.Errorf("volume %q is not in the configuration", name)
	}
	return s.in.cfg.Volumes[i], nil
}

func (s snapshots) request(jobID, volume string) (snapshot.Request, error) {
	v, err := s.volume(volume)
	if err != nil {
		return snapshot.Request{}, err
	}
	if err := steady(v.Path); err != nil {
		return snapshot.Request{}, fmt.Errorf("volume %q: %w: %w", v.Name, errVolumes, err)
	}
	return snapshot.Request{
		Volume: v.Path, Host: s.in.host, Job: jobID, Name: v.Name, Dir: v.SnapshotDir,
		Spare: s.a.spare(), FreezeLimit: s.a.cfg.Limits.FrozenDeadline,
	}, nil
}

// Plan chooses the provider of each volume by its present storage.
func (s snapshots) Plan(ctx context.Context, jobID string) ([]model.Snapshot, error) {
	planned := make([]model.Snapshot, 0, len(s.in.cfg.Volumes))
	for _, v := range s.in.cfg.Volumes {
		snap, err := act(ctx, &s.a.patience, v.Path, "planning the snapshot", planTime, engineTime, func(ctx context.Context) (model.Snapshot, error) {
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
		s.a.log.Info("a volume is read in place, and its instance is held meanwhile", keyInstance, s.in.cfg.ID, keyJob, jobID, "volume", v.Name, keyReason, reason)
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
		snap, err := act(ctx, &s.a.patience, p.Target, "planning the base snapshot", planTime, engineTime, func(ctx context.Context) (model.Snapshot, error) {
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
	v, err := s.volume(p.Volume)
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
	return act(ctx, &s.a.patience, planned.Ref.Volume, "making the snapshot", snapshotTime, engineTime, func(ctx context.Context) (model.Snapshot, error) {
		made, err := s.create(ctx, jobID, planned)
		if err == nil && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), s.a.removeSnapshotNow(context.WithoutCancel(ctx), planned.Ref))
		}
		return made, err
	})
}

func (s snapshots) create(ctx context.Context, jobID string, planned model.Snapshot) (model.Snapshot, error) {
	if err := s.a.standing.allowed(); err != nil {
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
		s.a.engine.BeginView(made.Ref.Path)
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
	v, err := s.volume(failed.Name)
	if err != nil || v.Snapshot != config.SnapshotAuto || errors.Is(why, errUnflushed) || failed.At != "" {
		return planned, "", false
	}
	planned, err = act(ctx, &s.a.patience, v.Path, "planning another snapshot", planTime, engineTime, func(ctx context.Context) (model.Snapshot, error) {
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
	v, err := s.volume(volume)
	if err != nil {
		return err
	}
	lacks := errors.New(strings.Join(made.Unflushed, "; "))
	if v.AcceptUnflushed {
		s.a.watcher.Lacked(s.in.cfg.ID, jobID, fmt.Sprintf("flush what is mounted on volume %q (accept_unflushed is set)", volume), lacks)
		return nil
	}
	return fmt.Errorf("%w: %w (accept_unflushed: true of the volume lets the job go on)", errUnflushed, lacks)
}

func (s snapshots) Stands(ctx context.Context, snap model.Snapshot) (bool, error) {
	provider, err := snapshot.ByName(snap.Ref.Provider)
	if err != nil {
		return false, err
	}
	return ask(ctx, &s.a.patience, snap.Ref.Volume, "looking for the snapshot "+snap.Ref.Path, lookTime, func(ctx context.Context) (bool, error) {
		return provider.Stands(ctx, snapshot.Ref(snap.Ref))
	})
}

func (s snapshots) Remove(ctx context.Context, ref model.Ref) error {
	return s.a.removeSnapshot(ctx, ref)
}

// removeSnapshot waits for the removal for as long as removeTime,
// and not beyond the end of ctx; it goes on after that.
func (a *Agent) removeSnapshot(ctx context.Context, ref model.Ref) error {
	// Under a name of its own: what hangs on the volume may hang
	// since this view freezes its file system.
	_, err := ask(ctx, &a.patience, ref.Provider+" "+cmp.Or(ref.Path, ref.Volume), "removing the snapshot", removeTime, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, a.removeSnapshotNow(ctx, ref)
	})
	return err
}

func (a *Agent) removeSnapshotNow(ctx context.Context, ref model.Ref) error {
	if err := a.standing.allowed(); err != nil {
		return err
	}
	provider, err := snapshot.ByName(ref.Provider)
	if err != nil {
		return err
	}
	if ref.Path != "" {
		a.engine.EndView(ref.Path) // from here on its blocks may become something else
	}
	return provider.Remove(ctx, snapshot.Ref(ref))
}

// leftovers lists the snapshots of this host beside all configured volumes. Where a
// volume can't be looked at, the others are listed all the same. All volumes are looked
// at together: volumes that do not answer keep nobody waiting for longer than one.
func (a *Agent) leftovers(ctx context.Context) ([]model.Ref, error) {
	if a.shared {
		return nil, nil // a snapshot with this host's name may be the view that the other folder's agent reads
	}
	var mu sync.Mutex
	var refs []model.Ref
	var errs []error
	seen := map[string]bool{}
	group, ctx := contain.WithContext(ctx)
	for _, in := range a.instances {
		for _, v := range in.cfg.Volumes {
			group.Go(func() error {
				found, err := a.leftoversOf(ctx, snapshot.Request{Volume: v.Path, Host: in.host, Name: v.Name, Dir: v.SnapshotDir})
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
func (a *Agent) leftoversOf(ctx context.Context, r snapshot.Request) ([]snapshot.Ref, error) {
	return ask(ctx, &a.patience, r.Volume, "looking for leftover snapshots", leftoverTime, func(ctx context.Context) ([]snapshot.Ref, error) {
		if _, err := os.Stat(r.Volume); errors.Is(err, os.ErrNotExist) {
			return nil, nil // not restored to this host
		}
		return snapshot.Leftovers(ctx, r)
	})
}

// receipts signs this host's statements about backups.
type receipts struct{ a *Agent }

// Receipt is called while the instance is still held, so its freeze counts up to now.
func (r receipts) Receipt(ctx context.Context, j *model.Job) (json.RawMessage, error) {
	res := j.Result
	if r.a.signing == nil {
		return nil, errors.New("the signing key could not be opened at the start; put signing_key_file right and restart the agent")
	}
	return r.a.signing.signer().Sign(ctx, report.Statement{
		Instance: j.Instance, Tenant: j.Tenant, Task: j.Task, Job: j.ID,
		Vault: res.VaultID, Backup: res.BackupID, Sequence: res.Seq, Parent: res.Parent, Object: res.Object, ManifestSHA256: res.ManifestSHA256,
		Store: r.a.store.String(), Files: res.Files, Dirs: res.Dirs, Bytes: res.Bytes, BytesSent: res.BytesSent,
		Compressed: res.Compressed, CompressedWhy: res.CompressedWhy,
		Frozen: j.HeldSince, Hold: string(j.Mode), FreezeSeconds: j.FreezeSeconds(r.a.journal.Up()), Stored: j.Entered[model.Stored], Verified: res.Verified,
		ChunksReadBack: res.Sampled, ChunksReadBackReused: res.SampledReused, Verification: res.Depth, Warnings: res.Warnings,
		LossesAccepted: res.LossesAccepted, Host: r.a.cfg.HostID, Identity: r.a.identity.ID, Agent: r.a.version, Fork: res.Fork,
	})
}
