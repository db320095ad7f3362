package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
)

const (
	// volumeTime bounds the look at one volume: LVM's own programs take seconds.
	volumeTime = 20 * time.Second
	// volumesAtOnce bounds the volumes that are looked at together: some looks start programs.
	volumesAtOnce = 4
	// volumesEvery is how often the volumes are looked at:
	// their storage changes when somebody mounts something.
	volumesEvery = 10 * time.Minute
)

// VolumeView tells how a backup would read a volume, and the consequences for its instance.
type VolumeView struct {
	Instance, Volume string
	Provider         string // "" where that can't be told
	// the consequences for the instance, in words; without a provider, why they are not known
	Means string
	// Warn says that the instance stands still for longer than its mode of hold promises.
	Warn bool
}

// LookAtVolumes tells of all volumes of a configuration how a backup
// would read them now, in the order of the configuration. It changes
// nothing. A volume that does not answer in time is told of as such.
func LookAtVolumes(ctx context.Context, cfg *config.Config) []VolumeView {
	return lookAtVolumes(ctx, cfg, &patience{})
}

func lookAtVolumes(ctx context.Context, cfg *config.Config, p *patience) []VolumeView {
	var views []VolumeView
	index := map[[2]string]int{}
	for i := range cfg.Instances {
		for _, v := range cfg.Instances[i].Volumes {
			index[[2]string{cfg.Instances[i].ID, v.Name}] = len(views)
			views = append(views, VolumeView{Instance: cfg.Instances[i].ID, Volume: v.Name})
		}
	}
	group, ctx := contain.WithContext(ctx)
	group.SetLimit(volumesAtOnce)
	for i := range cfg.Instances {
		in := &cfg.Instances[i]
		for _, v := range in.Volumes {
			view := &views[index[[2]string{in.ID, v.Name}]]
			group.Go(func() error {
				found, err := ask(ctx, p, v.Path, "finding out how to read the volume "+v.Name+" of "+in.ID, volumeTime, func(ctx context.Context) (VolumeView, error) { return lookAtVolume(ctx, in, v) })
				if err != nil {
					found.Means = err.Error()
				}
				found.Instance, found.Volume = in.ID, v.Name
				*view = found
				return nil
			})
		}
	}
	_ = group.Wait() // of panics alone, which leave their view empty
	return views
}

func lookAtVolume(ctx context.Context, in *config.Instance, v config.Volume) (VolumeView, error) {
	kind, err := snapshot.KindOf(v.Path)
	if err != nil {
		return VolumeView{}, err
	}
	req := snapshot.Request{Volume: v.Path, Name: v.Name, Dir: v.SnapshotDir}
	p, _, err := snapshot.Detect(ctx, req, v.Snapshot)
	if err != nil {
		return VolumeView{}, err
	}
	view := VolumeView{Provider: p.Name()}
	hold := p.Costs(kind).Hold
	holds := in.Runtime.Kind() != "none"
	mode := model.Mode(in.Hold)
	early := mode == model.ModePrecopy || mode == model.ModeStop
	switch {
	case mode == model.ModeLive && p.InPlace():
		view.Warn = true
		view.Means = "no backup can be made: hold is live, and this storage makes no snapshots"
	case mode == model.ModeLive:
		view.Means = "the instance is not held"
	case !holds && p.InPlace():
		view.Means = "it is read in place; nothing holds the instance, so whoever writes to it meanwhile spoils the backup"
	case !holds:
		view.Means = "a snapshot is read; nothing holds the instance"
	case !p.InPlace():
		view.Means = "a snapshot is read; the instance is held " + hold
	case early && tree.TellsChanges(v.Path) == nil:
		view.Means = "it is read in place: most of it while the instance runs, and what changed since while the instance is held, until that is stored"
	case early:
		view.Warn = true
		view.Means = fmt.Sprintf("hold: %s is of no use, since this storage makes no snapshots and does not tell what changed: the instance is held for the whole upload", mode)
	default:
		view.Means = "it is read in place; the instance is held for the whole upload"
	}
	if p.InPlace() {
		if better := snapshot.Advice(ctx, req); better != "" {
			view.Means += ". Better: " + better
		}
	}
	return view, nil
}

// volumeViews is the result of the last look. The zero value is ready; it is for any goroutine.
type volumeViews struct {
	mu    sync.Mutex
	views map[[2]string]VolumeView // by instance and volume
}

func (v *volumeViews) of(instance, volume string) VolumeView {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.views[[2]string{instance, volume}]
}

// watchVolumes looks at the volumes from time to time until ctx ends,
// and logs how each is read, at the start and when that changes.
func (a *Agent) watchVolumes(ctx context.Context) {
	tick := time.NewTicker(volumesEvery)
	defer tick.Stop()
	for {
		found := lookAtVolumes(ctx, a.cfg, &a.patience)
		if ctx.Err() != nil {
			return
		}
		a.volumes.mu.Lock()
		before := maps.Clone(a.volumes.views)
		a.volumes.views = map[[2]string]VolumeView{}
		for _, v := range found {
			a.volumes.views[[2]string{v.Instance, v.Volume}] = v
		}
		a.volumes.mu.Unlock()
		for _, v := range found {
			if before[[2]string{v.Instance, v.Volume}] == v {
				continue
			}
			log := a.log.Info
			if v.Warn {
				log = a.log.Warn
			}
			log("how a volume is read", keyInstance, v.Instance, "volume", v.Volume, "provider", cmp.Or(v.Provider, "unknown"), "means", v.Means)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// volumesOf tells a caller of the volumes of an instance.
func (a *Agent) volumesOf(c model.Caller, in *config.Instance) []api.Volume {
	list := make([]api.Volume, len(in.Volumes))
	for i, v := range in.Volumes {
		view := a.volumes.of(in.ID, v.Name)
		if !c.SeesAll() {
			view.Means = a.forTenant(view.Means)
		}
		list[i] = api.Volume{Name: v.Name, Path: v.Path, Snapshot: v.Snapshot, Provider: view.Provider, Means: view.Means}
	}
	return list
}
