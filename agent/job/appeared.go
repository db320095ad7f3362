package job

import (
	"context"
	"fmt"
	"slices"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

// A restore takes hours, and the instance may be started meanwhile. Where the runtime tells how the
// instance is, mayMove looks at that. Where nothing tells, only volumes that are missing or empty
// are restored, and they have to be so still when the new volumes are put into their places.

// nothingAppeared fails where nothing tells whether the instance runs, and a volume has content
// that is to be replaced: a program may use the content. An operator who puts content back has
// looked.
func (w *worker) nothingAppeared(ctx context.Context, j *model.Job) error {
	if j.PutBack != "" {
		return nil
	}
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	state, err := w.user(ctx, j, instance)
	if err != nil || state != model.IsUnknown {
		return err
	}
	known, err := w.m.journal.Content(j.Instance)
	if err != nil {
		return err
	}
	volumes, err := w.m.parts.Restorer.Look(ctx, j.Instance, j.Tenant, known)
	if err != nil {
		return fmt.Errorf("look at the volumes: %w", err)
	}
	for _, p := range j.Restore.Places {
		if in, err := w.m.parts.Restorer.Placed(p); in || err != nil {
			if err != nil {
				return err
			}
			continue // its content is the restored content
		}
		if slices.ContainsFunc(volumes, func(v prepare.VolumeFacts) bool { return v.Volume == p.Volume && v.Presence == prepare.VolumeContent }) {
			return fmt.Errorf("content came to %s, the place of volume %q, since the restore began, and nothing tells whether a program uses it: "+
				"stop what writes there, move the content away, and command it again", p.Target, p.Volume)
		}
	}
	return nil
}
