package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/model"
)

// Looks at an instance that seems to run while it is being released, before that is believed: a
// runtime that lets go of the freezer to deliver the kill shows it as running for a moment.
const (
	releaseLooks = 5
	releaseLook  = time.Second
)

// heldBy tells why the instance is not held by the job any more, or
// has run since it was; empty when it is, and has not.
func (w *worker) heldBy(j *model.Job, now model.Sight) string {
	if j.Mode == model.ModeLive {
		return "" // it never was, and is not released
	}
	if why := w.stands(j, now.State); why != "" || now.State == model.IsUnknown || j.Held.State == "" {
		return why
	}
	switch {
	case now.ID != j.Held.ID:
		return fmt.Sprintf("the instance is another one (%q) than the one that was backed up (%q); it was left alone", now.ID, j.Held.ID)
	case now.Run != j.Held.Run:
		return fmt.Sprintf("the instance was started, or let run, by someone else after it was backed up, and may have written since (its run is %q, and was %q); "+
			"it was not powered down", now.Run, j.Held.Run)
	case now.State == model.IsFrozen && now.Work != j.Held.Work && !w.begun:
		return fmt.Sprintf("someone else let the instance run and froze it again after it was backed up, and it may have written since (it has worked for %s, and had for %s); "+
			"it was not powered down", now.Work, j.Held.Work)
	}
	return ""
}

// stands is heldBy for the state alone.
func (w *worker) stands(j *model.Job, state model.RuntimeState) string {
	switch {
	case (state == model.IsFrozen && j.Mode != model.ModeStop || state == model.IsUnknown) && j.BootID == w.m.opts.BootID:
		return ""
	case state == model.IsFrozen && j.Mode != model.ModeStop || state == model.IsUnknown:
		return "the host was restarted since the instance was frozen"
	case state == model.IsStopped && (j.Found == model.IsStopped || j.Mode == model.ModeStop):
		return ""
	}
	return fmt.Sprintf("the instance is %s although this job holds it: someone else changed that, or the host was restarted; "+
		"it was not powered down by this agent", state)
}

// unheld looks at the instance and tells why it is not held by the job any more, or has run since.
func (w *worker) unheld(ctx context.Context, j *model.Job, instance Instance) (now model.Sight, why string, err error) {
	if now, err = instance.Runtime.State(ctx); err != nil {
		return now, "", err
	}
	if why = w.heldBy(j, now); why == "" || now.State != model.IsMissing || j.Identity == "" {
		return now, why, nil
	}
	why = fmt.Sprintf("the runtime knows the instance that was backed up (%s) no more: someone else removed it", j.Identity)
	if other, err := instance.Runtime.Of("").State(ctx); err == nil && other.ID != "" && other.ID != j.Identity {
		why += fmt.Sprintf("; another one, %s, has its name, is %s, and was left alone: it is in no backup of this job", other.ID, other.State)
	}
	return now, why, nil
}

func (w *worker) stillHeld(ctx context.Context, j *model.Job, instance Instance) (model.Sight, error) {
	now, why, err := w.unheld(ctx, j, instance)
	if err == nil && why != "" {
		err = errors.New(why)
	}
	return now, err
}

// ranMeanwhile tells that the instance has run, or is another, since it was held:
// then the content that was read meanwhile may be of more than one moment, and
// makes no backup. A runtime that does not answer is asked again before the report.
func (w *worker) ranMeanwhile(ctx context.Context, j *model.Job) error {
	instance, err := w.instance(j)
	if err != nil {
		return err
	}
	if _, why, err := w.unheld(ctx, j, instance); err == nil && why != "" {
		return errors.New(why)
	}
	return nil
}

// lost looks until the runtime answers, and tells why the instance is not held any more.
func (w *worker) lost(hard context.Context, j *model.Job) (why string, err error) {
	err = w.persist(hard, j, "look at the instance", func(ctx context.Context) error {
		instance, err := w.instance(j)
		if err != nil {
			return err
		}
		_, why, err = w.unheld(ctx, j, instance)
		return err
	})
	return why, err
}

// downOrHeld looks at an instance that is being released: it is down by this
// agent's doing, or was down all the time; or it is held as it was; or it has run
// since, and why says so. That an instance seems to run is not believed at once.
func (w *worker) downOrHeld(ctx context.Context, j *model.Job, instance Instance) (down bool, why string, err error) {
	for look := 1; ; look++ {
		now, why, err := w.unheld(ctx, j, instance)
		switch {
		case err != nil:
			return false, "", err
		case w.broughtDown(j, now):
			return true, "", nil
		case why == "":
			return now.State == model.IsStopped, "", nil
		case look == releaseLooks || !slices.Contains([]model.RuntimeState{model.IsRunning, model.IsStopped}, now.State):
			return false, why, nil
		}
		if err := sleep(ctx, releaseLook); err != nil {
			return false, "", err
		}
	}
}

// broughtDown tells whether the instance is down because this agent powered it down,
// even if the call returned an error: it is the same instance, was not started since
// it was held, and was killed in the same boot of the host. An instance that is gone
// counts only if its runtime forgets instances that are powered down.
func (w *worker) broughtDown(j *model.Job, now model.Sight) bool {
	if !w.mayBeDown || j.BootID != w.m.opts.BootID {
		return false
	}
	switch now.State {
	case model.IsMissing:
		return j.Held.Passing || w.down
	case model.IsStopped:
		// A driver that has a word for the run of an instance need not have one when it is down.
		return now.Killed && now.ID == j.Held.ID && (now.Run == j.Held.Run || now.Run == "")
	}
	return false
}

// keepDown sees to it that an instance that is down stays down. It is a step
// of its own, since the instance may be down by an act whose answer was lost.
func (w *worker) keepDown(ctx context.Context, j *model.Job, instance Instance) error {
	err := instance.Runtime.KeepDown(ctx)
	if errors.Is(err, ErrNoKeeping) {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "keep the instance down", err)
		return nil
	}
	return err
}

// user tells the state of the instance that uses the volumes which are to
// be restored: the instance with the configured name, or else the instance
// of the last job of this host, which may have another name by now.
func (w *worker) user(ctx context.Context, j *model.Job, instance Instance) (model.RuntimeState, error) {
	sight, err := instance.Runtime.State(ctx)
	if err != nil || sight.State != model.IsMissing {
		return sight.State, err
	}
	_, latest, err := w.m.journal.ByInstance(j.Instance)
	if err != nil {
		return "", err
	}
	last, err := w.m.journal.Ended(j.Instance)
	if err != nil {
		return "", err
	}
	for _, known := range []*model.Job{latest, last} {
		if known == nil || known.Identity == "" {
			continue
		}
		other, err := instance.Runtime.Of(known.Identity).State(ctx)
		if err != nil {
			return "", err
		}
		if other.State == model.IsRunning || other.State == model.IsFrozen {
			return "", fmt.Errorf("it has another name than the one in the configuration by now (its identity is %s), and is %s: stop it, or give it its name back",
				known.Identity, other.State)
		}
	}
	return model.IsMissing, nil
}
