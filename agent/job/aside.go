package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// The content that a restore takes out of the places of volumes may hold bytes that no backup has.
// Unless the decision says for certain that a backup holds it, it is kept aside: the journal names
// it in the transaction of the state restored, and then it is renamed, beside its volume. It is
// removed after Options.KeepAside, or when an operator says so, and a put-back exchanges it again.

// replaced looks at the content that all volumes have replaced, once all are in their places. It
// returns the places as they are to be journalled, and the record of the kept content; nil: none is
// kept.
//
// Invariant nothing-lost: content that is not kept is an empty folder, or was in a backup when the
// restore began, by the decision's word, and has not changed since.
func (w *worker) replaced(ctx context.Context, j *model.Job) (places []model.Place, sum *model.Replaced, kept *model.Aside, err error) {
	known, err := w.m.journal.Content(j.Instance)
	if err != nil {
		return nil, nil, nil, err
	}
	sum = &model.Replaced{Backup: known.Backup}
	places = slices.Clone(j.Restore.Places)
	counts := make([]model.Count, len(places))
	some, keep := false, false
	for i := range places {
		p := &places[i]
		if p.Old, counts[i], err = w.m.parts.Restorer.Count(ctx, *p, p.Stage); err != nil {
			return nil, nil, nil, fmt.Errorf("volume %q: %w", p.Volume, err)
		}
		if p.Old == "" {
			continue
		}
		c := counts[i]
		sum.Add(c)
		p.Empty = c.Whole && c.Entries == 0
		certain := j.Restore.Certain && p.Was.Same(c)
		some, keep = true, keep || j.PutBack != "" || !p.Empty && !certain
	}
	for _, p := range j.Restore.Out { // removed before
		sum.Files, sum.Bytes, some = sum.Files+p.Was.Files, sum.Bytes+p.Was.Bytes, true
		if p.Was.Newest.After(sum.Newest) {
			sum.Newest = p.Was.Newest
		}
	}
	if !some {
		return places, nil, nil, nil
	}
	if !keep {
		return places, sum, nil, nil
	}
	sum.Kept = true
	kept = &model.Aside{
		Instance: j.Instance, Tenant: j.Tenant, Job: j.ID, Since: w.m.opts.Now().UTC(), SinceUp: w.m.journal.Up(), Known: known, By: j.Restore.Backup, Replaced: *sum,
	}
	for i := range places {
		p := &places[i]
		if p.Old == "" {
			kept.Missing = append(kept.Missing, p.Volume)
			continue
		}
		p.Aside, p.Empty = asideOf(*p, j.ID), false
		kept.Volumes = append(kept.Volumes, model.AsideVolume{Place: *p, Count: counts[i]})
	}
	return places, sum, kept, nil
}

// setAside renames the content that the volume of a place has replaced. A tree that can't be
// renamed stays at the stage: the journal's record of it counts there too, and the rename is tried
// again later.
func (w *worker) setAside(j *model.Job, p model.Place) {
	err := w.act(crashpoint.SetAside, func() error {
		return contain.Call(func() error { return w.m.parts.Restorer.SetAside(p) })
	})
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "rename the replaced content to "+p.Aside, err)
	}
}

// Kept lists the kept content, the oldest first.
func (m *Manager) Kept() ([]model.Aside, error) { return m.journal.Kept() }

// KeptFor tells for how long a record is kept already, and whether that is as long as it should be.
func (m *Manager) KeptFor(s *model.Aside) (age time.Duration, over bool) {
	age = max(0, m.journal.Up()-s.SinceUp)
	return age, age >= m.opts.KeepAside
}

// findKept names the one record of an instance: the record of the job, or the only record.
func (m *Manager) findKept(instance, job string) (model.Aside, error) {
	all, err := m.journal.Kept()
	if err != nil {
		return model.Aside{}, err
	}
	all = slices.DeleteFunc(all, func(s model.Aside) bool { return s.Instance != instance || job != "" && s.Job != job })
	switch {
	case len(all) == 0 && job != "":
		return model.Aside{}, fmt.Errorf("job %s of instance %q has no kept content: %w", job, instance, model.ErrNotFound)
	case len(all) == 0:
		return model.Aside{}, fmt.Errorf("instance %q has no kept content: %w", instance, model.ErrNotFound)
	case len(all) > 1:
		return model.Aside{}, fmt.Errorf("instance %q has kept content of %d jobs; name the job (`holdfast kept list`): %w", instance, len(all), ErrAmbiguous)
	}
	return all[0], nil
}

// ErrAmbiguous says that a request fits several records.
var ErrAmbiguous = errors.New("not one alone")

// RemoveKept removes the kept content of an instance: of the job that has replaced it, or "" where
// only one has. The intent is journalled first; with an error after that the removal is tried again
// until it succeeds. ErrNotFound, ErrAmbiguous, and ErrState while a job uses it, change nothing.
func (m *Manager) RemoveKept(instance, job string) error {
	s, err := m.findKept(instance, job)
	if err != nil {
		return err
	}
	return m.removeAside(s, true)
}

// removeAside journals that a record is being removed, removes the trees, and forgets the record.
// Where an operator wants that, the control plane is told.
func (m *Manager) removeAside(s model.Aside, told bool) error {
	if !s.Removing {
		m.hit(crashpoint.WriteRemoving + crashpoint.Before)
		var event *model.Event
		if told {
			e, err := decided(model.EventDecided, decidedData{
				Instance: s.Instance, Tenant: s.Tenant, Job: s.Job, Decision: decidedRemoval, By: "an operator", BackupID: s.Known.Backup, Replaced: &s.Replaced,
			})
			if err != nil {
				return err
			}
			event = &e
		}
		if err := m.journal.CondemnKept(s.Instance, s.Job, event, m.opts.Now()); err != nil {
			return err
		}
		wake(m.outbox)
		m.hit(crashpoint.WriteRemoving + crashpoint.After)
	}
	var errs []error
	for _, v := range s.Volumes {
		m.hit(crashpoint.RemoveAside + crashpoint.Before)
		errs = append(errs, contain.Call(func() error { return m.removeTree(v.Place) }))
		m.hit(crashpoint.RemoveAside + crashpoint.After)
	}
	failed := errors.Join(errs...)
	err := m.journal.EditKept(s.Instance, s.Job, func(s *model.Aside) bool {
		if failed != nil {
			s.Error = failed.Error()
		}
		return failed != nil
	})
	if errors.Is(err, model.ErrNotFound) {
		err = nil // somebody else removed it at the same time
	}
	return errors.Join(failed, err)
}

// removeTree removes a tree that is kept, or condemned.
func (m *Manager) removeTree(p model.Place) error {
	at, err := m.parts.Restorer.LiesAside(p)
	if err != nil || at == "" {
		return err
	}
	p.Stage = at
	return m.discardTree(p)
}

// asideEvery is how often the kept content is looked at: a minute more or less is nothing to hours.
const asideEvery = time.Minute

// watchAside removes content that was kept for long enough, until ctx ends, and goes on with
// removals.
func (m *Manager) watchAside(ctx context.Context) {
	type due struct {
		at    time.Time
		pause time.Duration
	}
	next := map[string]due{}
	tick := time.NewTicker(asideEvery)
	defer tick.Stop()
	var looked time.Time
	for {
		if now := time.Now(); looked.IsZero() || now.Sub(looked) >= seekEvery {
			looked = now
			m.contained("look for kept content of which the journal does not know", func() { m.seekKept(ctx) })
		}
		all, err := m.journal.Kept()
		if err != nil {
			m.parts.Observer.Trouble("", "", "look for kept content", err)
		}
		for _, s := range all {
			key := s.Key()
			d := next[key]
			if time.Now().Before(d.at) || ctx.Err() != nil {
				continue
			}
			delete(next, key)
			if !m.tendAside(s) {
				d.pause = min(max(2*d.pause, firstLeftoverPause), lastLeftoverPause)
				d.at = time.Now().Add(d.pause)
				next[key] = d
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tendAside does the act that is due with a record, and tells whether nothing failed.
func (m *Manager) tendAside(s model.Aside) bool {
	_, over := m.KeptFor(&s)
	var err error
	doing := "remove the kept content of " + s.Instance
	switch {
	case s.Removing || over:
		if err = m.removeAside(s, false); errors.Is(err, model.ErrState) {
			return true // a job uses it
		}
	default:
		doing = "rename the replaced content of " + s.Instance
		err = m.renameAside(s)
	}
	if err != nil {
		m.parts.Observer.Trouble(s.Instance, s.Job, doing, err)
	}
	return err == nil
}

// renameAside goes on with a rename that failed, or that a crash cut off. The job that did not end
// yet does that by itself.
func (m *Manager) renameAside(s model.Aside) error {
	active, _, err := m.journal.ByInstance(s.Instance)
	if err != nil || active != nil && (active.ID == s.Job || active.PutBack == s.Job) {
		return err
	}
	var errs []error
	for _, v := range s.Volumes {
		at, err := m.parts.Restorer.LiesAside(v.Place)
		switch {
		case err != nil:
			errs = append(errs, err)
		case at == "":
			errs = append(errs, fmt.Errorf("volume %q: the tree that was kept at %s is not there any more; "+
				"bring it back, or remove the record (`holdfast kept remove %s`)", v.Place.Volume, v.Place.Aside, s.Instance))
		case at != v.Place.Aside:
			errs = append(errs, m.parts.Restorer.SetAside(v.Place))
		}
	}
	failed := errors.Join(errs...)
	text := ""
	if failed != nil {
		text = failed.Error()
	}
	if text == s.Error {
		return failed
	}
	err = m.journal.EditKept(s.Instance, s.Job, func(s *model.Aside) bool { s.Error = text; return true })
	return errors.Join(failed, err)
}
