package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup"
	"holdfast/internal/location"
	"holdfast/internal/snapshot"
)

// volumeRecords are the records of the journal that tell whose the content of a volume is.
type volumeRecords interface {
	Content(instance string) (model.Content, error)
	ByInstance(instance string) (active, latest *model.Job, err error)
	Ended(instance string) (*model.Job, error)
}

// Volumes looks at the volumes of instances. It changes nothing, and is for any goroutine.
type Volumes struct {
	log      *slog.Logger
	patience *patience
	journal  volumeRecords
	identity string // of this host; "" is not known
	// check is config.CheckVolumes of the configuration.
	check func(instance int, look func(path string, strict bool) (location.Location, error)) []config.VolumeFault
}

// answers fails for a volume on storage that does not answer. A missing volume answers.
func (vs *Volumes) answers(ctx context.Context, in *Instance) error {
	for _, v := range in.cfg.Volumes {
		_, err := ask(ctx, vs.patience, v.Path, "looking at the volume", lookTime, func(context.Context) (snapshot.Kind, error) { return snapshot.KindOf(v.Path) })
		if NoAnswer(err) {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// Restored tells whether every volume is on this host; else why not.
func (vs *Volumes) Restored(ctx context.Context, in *Instance) error {
	for _, v := range in.cfg.Volumes {
		if _, err := ask(ctx, vs.patience, v.Path, "looking at the volume", askTime, func(context.Context) (snapshot.Kind, error) { return snapshot.KindOf(v.Path) }); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	return nil
}

// errOtherTenant says that a backup would put one tenant's content into another tenant's vault.
var errOtherTenant = errors.New("it has content of another tenant, which no backup of this tenant may hold")

// ofTenant fails for a volume with content of another tenant: the instance, or the slot, was
// configured for this tenant since.
func (vs *Volumes) ofTenant(ctx context.Context, in *Instance, tenant string) error {
	known, err := vs.journal.Content(in.cfg.ID)
	if err != nil {
		return err
	}
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, vs.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if NoAnswer(err) {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		} else if err != nil {
			continue // reading the volume reports the fault
		}
		f := originOf(s, known, belongs{tenant: tenant, instance: in.cfg.ID, volume: v.Name, host: vs.identity})
		if f.Origin == prepare.OriginTenant {
			return fmt.Errorf("volume %q: %w (%s); move the content away, or, if it is this tenant's all the same, take the mark off with `holdfast volume-mark --remove %s`",
				v.Name, errOtherTenant, f.Why, v.Path)
		}
	}
	return nil
}

// presence tells of each volume of an instance whether it is there, for callers of the API.
func (vs *Volumes) presence(ctx context.Context, in *Instance, limit time.Duration) (all []prepare.Presence, err error) {
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, vs.patience, v.Path, "looking at the content", limit, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		all = append(all, s.presence)
	}
	return all, nil
}

// errVolumes says that an instance is refused for where its volumes lie.
var errVolumes = errors.New("the volumes of the instance must not be used as they are configured")

// fit fails where a volume of an instance may belong to somebody else:
// its path may be made to lead elsewhere, or it overlaps another volume or the
// agent's own files. It looks at how things are now, as mounts and links change.
func (vs *Volumes) fit(ctx context.Context, in *Instance) error {
	look := func(path string, strict bool) (location.Location, error) { return vs.look(ctx, path, strict) }
	for _, f := range vs.check(in.index, look) {
		return fmt.Errorf("%w: volume %q: %w", errVolumes, in.cfg.Volumes[f.Volume].Name, f.Err)
	}
	return nil
}

// placeTime bounds one look at one path.
const placeTime = 3 * time.Second

// look tells where a path lies.
func (vs *Volumes) look(ctx context.Context, path string, strict bool) (location.Location, error) {
	what := "looking where the path lies"
	if strict {
		what = "looking who can change the path"
	}
	return ask(ctx, vs.patience, path, what, placeTime, func(context.Context) (location.Location, error) { return config.Look(path, strict) })
}

// RefuseUnfit logs which instances are refused from the start. They are
// looked at again before each use, so that a remedy needs no restart.
func (vs *Volumes) RefuseUnfit(ctx context.Context, all []*Instance) {
	for _, in := range all {
		if err := vs.fit(ctx, in); err != nil {
			vs.log.Error("an instance is refused until its volumes are configured otherwise; the others go on", keyInstance, in.cfg.ID, keyError, err.Error())
		}
	}
}

// rootsOf identifies the content of all backed-up volumes. A fact that can't
// be found out is left out, and the volume then counts as another one.
func (vs *Volumes) rootsOf(ctx context.Context, in *Instance, r job.BackupRequest, res *backup.Result) map[string]model.Root {
	roots := map[string]model.Root{}
	for _, v := range in.cfg.Volumes {
		s, err := ask(ctx, vs.patience, v.Path, "looking at the content", lookTime, func(ctx context.Context) (volumeSight, error) { return see(ctx, v.Path) })
		if err != nil || s.presence == prepare.VolumeMissing {
			vs.log.Warn("which folder or file a volume is can't be told, so the next prepare takes it for another one", keyInstance, r.Instance, keyJob, r.Job, "volume", v.Name, keyReason, fmt.Sprint(err))
			continue
		}
		root := s.root
		root.Entries, root.Catalogue = res.Contents[v.Name], res.Catalogues[v.Name]
		if !in.runtime.Holds() || model.Mode(in.cfg.Hold) == model.ModeLive {
			root.Modified = 0 // it may have been written to since the snapshot
		}
		roots[v.Name] = root
	}
	return roots
}

// Loaded tells whether the data of an instance whose last job is
// over belongs to this host now: it is here, and was not released.
func (vs *Volumes) Loaded(ctx context.Context, in *Instance, last *model.Job) (bool, error) {
	if last != nil && last.State == model.Done {
		if last.IsRestore() {
			err := vs.Restored(ctx, in)
			if NoAnswer(err) {
				return false, err
			}
			return err == nil, nil // also where the backup had empty volumes
		}
		if !last.Entered[model.Released].IsZero() {
			return false, nil
		}
	}
	volumes, err := vs.presence(ctx, in, askTime)
	if err != nil || slices.Contains(volumes, prepare.VolumeMissing) {
		return false, err
	}
	return slices.Contains(volumes, prepare.VolumeContent), nil
}

// has tells whether the content of an instance is on this host, and is the instance's as far as
// this host knows: it was made or restored here, and not released since.
func (vs *Volumes) has(ctx context.Context, in *Instance) bool {
	id := in.cfg.ID
	known, err := vs.journal.Content(id)
	if err != nil || known.Backup == "" || known.Released {
		return false
	}
	active, _, err := vs.journal.ByInstance(id)
	if err != nil || active != nil {
		return err == nil && !active.IsRestore()
	}
	last, err := vs.journal.Ended(id)
	if err != nil {
		return false
	}
	here, err := vs.Loaded(ctx, in, last)
	return err == nil && here
}
