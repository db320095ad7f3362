package job

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// A put-back is a restore whose trees are there already: the content that an earlier job has
// replaced, and that is kept. It takes the way of a restore from placing on, so a crash at any
// instant is done with as there, and the content that it replaces is itself kept.

// asidePrefix begins the names of kept trees; internal/restore knows it too.
const asidePrefix = ".holdfast-kept-"

// asideOf names where the tree that a job has replaced is Kept: beside its volume.
func asideOf(p model.Place, job string) string {
	return filepath.Join(filepath.Dir(p.Target), asidePrefix+job+"-"+p.Volume)
}

// PutBack begins a job that exchanges the volumes of an instance with its kept content: of the
// job that has replaced it, or "" where there is only one. It returns when that is durable.
// ErrNotFound, ErrAmbiguous, ErrState while it is being removed, and the errors of Accept.
func (m *Manager) PutBack(instance, job string) (*model.Task, error) {
	s, err := m.findKept(instance, job)
	if err != nil {
		return nil, err
	}
	if s.Removing {
		return nil, fmt.Errorf("the kept content of %q is being removed: %w", instance, model.ErrState)
	}
	id, err := m.newID()
	if err != nil {
		return nil, err
	}
	return m.Accept(Request{Kind: model.KindRestore, ID: "put-back-" + id, Tenant: s.Tenant, Instances: []string{instance}, PutBack: s.Job})
}

// toPutBack decides a put-back: it exchanges all volumes, or fails with the reason.
func (w *worker) toPutBack(ctx context.Context, j *model.Job) (model.State, journal.Change, error) {
	no := func(doing string, err error) (model.State, journal.Change, error) {
		return "", journal.Change{}, fmt.Errorf("%s: %w", doing, err)
	}
	restorer := w.m.parts.Restorer
	if restorer == nil {
		return "", journal.Change{}, errors.New("this agent does not restore")
	}
	instance, err := w.m.parts.Instance(j.Instance)
	if err != nil {
		return no("look for the instance", err)
	}
	found, err := w.user(ctx, j, instance)
	if err != nil {
		return no("look at the instance", err)
	}
	switch {
	case found == model.IsRunning || found == model.IsFrozen:
		return "", journal.Change{}, fmt.Errorf("the instance is %s; stop it, so that its volumes can be exchanged", found)
	case found == model.IsUnknown && instance.Holds:
		return "", journal.Change{}, errors.New("the runtime can't tell whether the instance runs; configure how its state is told")
	}
	s, err := w.m.journal.KeptBy(j.Instance, j.PutBack)
	switch {
	case err != nil:
		return no("look for the kept content", err)
	case s.Tenant != instance.Tenant || s.Tenant != j.Tenant:
		return "", journal.Change{}, fmt.Errorf("the kept content is of tenant %q, and the instance belongs to tenant %q now; move the content by hand", s.Tenant, instance.Tenant)
	case s.Removing:
		return "", journal.Change{}, errors.New("the kept content is being removed")
	case s.Partial:
		return "", journal.Change{}, errors.New("a removal of the kept content had begun when the journal of this host was lost or set back, so the content may not be whole; " +
			"look at the content, and move by hand what is of use")
	case len(s.Missing) > 0:
		return "", journal.Change{}, fmt.Errorf("nothing was at the place of volume %s when the others were replaced, so the volumes would be of two times; "+
			"move them by hand while the instance is stopped", strings.Join(s.Missing, ", "))
	}
	planned, err := restorer.Plan(ctx, j.Instance, j.ID)
	if err != nil {
		return no("find the volumes' places", err)
	}
	places, err := w.matchKept(&s, planned)
	if err != nil {
		return "", journal.Change{}, err
	}
	known := s.Known
	known.Released = false // the operator wants this content to be the instance's again
	r := &model.Restore{
		Known: &known, Backup: s.Known.Backup, Seq: s.Known.Seq, Created: s.Known.Created, Vault: s.Known.Vault, Places: places, Result: &model.RestoreResult{},
	}
	return model.Placing, journal.Change{Edit: func(j *model.Job) { j.Found, j.Restore, j.Kept = found, r, instance.Keep }}, nil
}

// matchKept gives the places of a put-back, whose trees lie aside. It fails where the kept
// content is not of the volumes that the configuration has, in their places, or is not there.
func (w *worker) matchKept(s *model.Aside, planned []model.Place) ([]model.Place, error) {
	places := make([]model.Place, 0, len(planned))
	for _, p := range planned {
		at := -1
		for i, v := range s.Volumes {
			if v.Place.Volume == p.Volume {
				at = i
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("the configuration has the volume %q, of which nothing is kept; move the others by hand while the instance is stopped", p.Volume)
		}
		kept := s.Volumes[at].Place
		if kept.Target != p.Target {
			return nil, fmt.Errorf("volume %q was at %s when it was replaced, and the configuration has it at %s", p.Volume, kept.Target, p.Target)
		}
		lies, err := w.m.parts.Restorer.LiesAside(kept)
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", p.Volume, err)
		}
		if lies == "" {
			return nil, fmt.Errorf("volume %q: the tree that was kept at %s is not there any more", p.Volume, kept.Aside)
		}
		if note, err := w.m.parts.Restorer.NoteOn(kept, lies); err != nil {
			return nil, fmt.Errorf("volume %q: %w", p.Volume, err)
		} else if note != nil && note.Removing {
			return nil, fmt.Errorf("volume %q: the note on the tree at %s says that its removal had begun, so the tree may not be whole; move by hand what is of use", p.Volume, lies)
		}
		places = append(places, model.Place{Volume: p.Volume, Target: kept.Target, Stage: lies, Holder: kept.Holder, Tree: kept.Old})
	}
	if len(places) != len(s.Volumes) {
		return nil, errors.New("a volume is kept that the configuration does not have any more; move the volumes by hand while the instance is stopped")
	}
	return places, nil
}
