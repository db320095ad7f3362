package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/runtime"
)

// Instance is one configured instance with its driver.
type Instance struct {
	cfg     *config.Instance
	index   int // in the configuration
	host    string
	runtime runtime.Instance
}

// NewInstance makes the driver of an instance, which is the index-th of the configuration.
func NewInstance(cfg *config.Instance, host string, index int) (*Instance, error) {
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
	return &Instance{cfg: cfg, index: index, host: host, runtime: driver}, nil
}

// Config is the configuration of the instance: the present one, or for an unfinished job with the
// volumes with which the job began.
func (in *Instance) Config() *config.Instance { return in.cfg }

// Runtime is the driver of the instance. It acts also while the agent stands still.
func (in *Instance) Runtime() runtime.Instance { return in.runtime }

// stateTime bounds one look at one instance for a list.
const stateTime = 3 * time.Second

// State tells how the instance is: the very instance that its unfinished job
// holds, also under another name. Unknown when the runtime does not say.
func (in *Instance) State(ctx context.Context, active *model.Job) model.RuntimeState {
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

// volume is a volume of the instance.
func (in *Instance) volume(name string) (config.Volume, error) {
	i := slices.IndexFunc(in.cfg.Volumes, func(v config.Volume) bool { return v.Name == name })
	if i < 0 {
		return config.Volume{}, fmt.Errorf("volume %q is not in the configuration", name)
	}
	return in.cfg.Volumes[i], nil
}

// volumes names all volumes of the instance together.
func (in *Instance) volumes() string {
	paths := make([]string, len(in.cfg.Volumes))
	for i, v := range in.cfg.Volumes {
		paths[i] = v.Path
	}
	return strings.Join(paths, ", ")
}

// keep is what of makes the instance again of.
func (in *Instance) keep() json.RawMessage {
	b, err := json.Marshal(kept{Instance: *in.cfg, Host: in.host})
	if err != nil {
		return nil // plain data: can't happen
	}
	return b
}

// withPlaces is the instance of the configuration, whose driver counts,
// with the host id and the volumes that an unfinished job began with.
func (in *Instance) withPlaces(before *Instance) *Instance {
	if in.host == before.host && slices.EqualFunc(in.cfg.Volumes, before.cfg.Volumes, func(a, b config.Volume) bool { return a.Name == b.Name && a.Path == b.Path }) {
		return in
	}
	cfg := *in.cfg
	cfg.Tenant, cfg.Volumes = before.cfg.Tenant, before.cfg.Volumes
	return &Instance{cfg: &cfg, index: in.index, host: before.host, runtime: in.runtime}
}
