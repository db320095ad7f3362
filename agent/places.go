package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/evidence"
	"holdfast/internal/location"
	"holdfast/internal/restore"
)

// errVolumes says that an instance is refused for where its volumes lie.
var errVolumes = errors.New("the volumes of the instance must not be used as they are configured")

// volumesFit fails where a volume of an instance may belong to somebody else:
// its path may be made to lead elsewhere, or it overlaps another volume or the
// agent's own files. It looks at how things are now, as mounts and links change.
func (a *Agent) volumesFit(ctx context.Context, in *instance) error {
	look := func(path string, strict bool) (location.Location, error) { return a.look(ctx, path, strict) }
	for _, f := range a.cfg.CheckVolumes(in.index, look) {
		return fmt.Errorf("%w: volume %q: %w", errVolumes, in.cfg.Volumes[f.Volume].Name, f.Err)
	}
	return nil
}

// placeTime bounds one look at one path.
const placeTime = 3 * time.Second

// look tells where a path lies.
func (a *Agent) look(ctx context.Context, path string, strict bool) (location.Location, error) {
	what := "looking where the path lies"
	if strict {
		what = "looking who can change the path"
	}
	return ask(ctx, &a.patience, path, what, placeTime, func(context.Context) (location.Location, error) { return config.Look(path, strict) })
}

// refuseUnfit logs which instances are refused from the start. They are
// looked at again before each use, so that a remedy needs no restart.
func (a *Agent) refuseUnfit(ctx context.Context) {
	for _, in := range a.instances {
		if err := a.volumesFit(ctx, in); err != nil {
			a.log.Error("an instance is refused until its volumes are configured otherwise; the others go on", keyInstance, in.cfg.ID, keyError, err.Error())
		}
	}
}

// steady fails where the path of a volume can be made to lead elsewhere.
func steady(path string) error {
	_, err := location.Strict(path)
	return err
}

// holderOf names the folder that holds a path, the same also after
// a reboot, and another where something else is mounted there.
func holderOf(path string) (string, error) {
	path = filepath.Dir(path)
	at, err := restore.Identify(path)
	if err != nil || at == "" {
		return "", err
	}
	return evidence.FileSystemOf(path) + " " + at, nil
}

// fits fails where the folder that holds a place is not the one
// that it was when the restore was planned, or can be made another.
func fits(p model.Place) error {
	for _, path := range []string{p.Target, p.Stage} {
		if err := steady(path); err != nil {
			return fmt.Errorf("volume %q: %w", p.Volume, err)
		}
	}
	now, err := holderOf(p.Stage)
	switch {
	case err != nil:
		return fmt.Errorf("volume %q: %w", p.Volume, err)
	case p.Holder != "" && now != p.Holder:
		return fmt.Errorf("volume %q: the folder of %s is not the one in which the restore began: something was mounted there or unmounted, or it was replaced; "+
			"bring the folder back", p.Volume, p.Target)
	}
	return nil
}
