package job

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/model"
)

// A journal that was set back to the time before the condemnation says that the old volumes of a
// restore are still to be taken out, although the restore has removed them since. Then nothing can
// be brought back, and the volumes that lie in the places by now are newer than the journal.

// errOutLost says that the old volume of a restore lies neither in its place nor aside.
var errOutLost = errors.New("it lies neither in its place nor aside, so the journal of this host was set back to an earlier state, or somebody moved the volume; " +
	"the agent leaves alone whatever lies in its place: look at it before the instance is started")

// outThere fails with errOutLost unless each old volume lies in its place or aside.
func (w *worker) outThere(j *model.Job) error {
	for _, p := range j.Restore.Out {
		switch lost, err := w.outLost(p); {
		case err != nil:
			return fmt.Errorf("look for the old volume %q: %w", p.Volume, err)
		case lost:
			return fmt.Errorf("take the old volume %q, which was at %s, out of its place: %w", p.Volume, p.Target, errOutLost)
		}
	}
	return nil
}

// outLost tells whether the old volume of a place lies neither there nor aside. A folder that is
// not the folder of before, since a disk is not mounted, is an error: the volume need not be
// gone.
func (w *worker) outLost(p model.Place) (lost bool, err error) {
	lies, err := w.m.parts.Restorer.LiesAside(p)
	if err != nil || lies != "" {
		return false, err
	}
	in, err := w.m.parts.Restorer.Placed(model.Place{Volume: p.Volume, Target: p.Target, Tree: p.Old})
	return err == nil && !in, err
}

// outEmpty fails where content lies in the place of an old volume that was taken out and condemned.
// The condemnation was the last word of the journal, so the restore had not put anything there: the
// journal was set back since, and the instance may have written to that content, or somebody else
// put it there. The next prepare decides by what it finds.
func (w *worker) outEmpty(ctx context.Context, j *model.Job) error {
	for _, p := range j.Restore.Out {
		at, c, err := w.m.parts.Restorer.Count(ctx, p, p.Target)
		switch {
		case err != nil:
			return fmt.Errorf("look whether anything lies in the place of volume %q: %w", p.Volume, err)
		case at != "" && (!c.Whole || c.Entries > 0):
			return fmt.Errorf("volume %q: content lies at %s, from where the old volume was taken, so the journal of this host was set back to an earlier state, "+
				"or somebody else put the content there; it was left alone", p.Volume, p.Target)
		}
	}
	return nil
}
