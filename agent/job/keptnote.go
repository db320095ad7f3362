package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
)

// The journal names the content that restores have replaced. Where the journal is lost or set back
// to an earlier state, the trees on the disks tell of themselves: each bears a note since before it
// left its place. The agent looks for such trees at its start and from time to time, and adopts the
// trees of which the journal does not know. The time for which they are kept begins anew then.

// seekEvery is how often the agent looks for kept content of which the journal does not know: a
// disk may be mounted late, and a look reads one folder for each place.
const seekEvery = time.Hour

// noteOld puts the note on the content in the place of a volume, before that content leaves the
// place. A note that can't be put keeps nobody from the restore: the journal has the same.
func (w *worker) noteOld(j *model.Job, p model.Place) {
	restorer := w.m.parts.Restorer
	in, err := restorer.Placed(p)
	if in {
		return // done before a crash
	}
	if err == nil {
		var known model.Content
		if known, err = w.m.journal.Content(j.Instance); err == nil {
			err = restorer.Note(p, p.Target, model.KeptNote{
				Instance: j.Instance, Tenant: j.Tenant, Job: j.ID, Volume: p.Volume, Target: p.Target, Since: w.m.opts.Now().UTC(),
				Backup: known.Backup, Seq: known.Seq, Created: known.Created, Vault: known.Vault, By: j.Restore.Backup,
			})
		}
	}
	if err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "note on "+p.Target+" whose content it is", err)
	}
}

// noteRemoval says on a tree that its removal begins. A tree without a note gets none.
func (m *Manager) noteRemoval(p model.Place, path string) error {
	n, err := m.parts.Restorer.NoteOn(p, path)
	if err != nil || n == nil || n.Removing {
		return err
	}
	n.Removing = true
	switch err := m.parts.Restorer.Note(p, path, *n); {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		// The journal says that the removal begins, and the removal makes the room for the note.
		m.parts.Observer.Lacked(n.Instance, n.Job, "note that the removal of "+path+" begins", err)
	case err != nil:
		return fmt.Errorf("note that the removal of %s begins: %w", path, err)
	}
	return nil
}

// errKeptUnknown says of a tree that nothing tells whose content it is.
var errKeptUnknown = errors.New("it has the name of kept content, and neither the journal nor a note on it tells whose content it is; " +
	"the agent leaves it alone: look at it, and rename or remove it by hand")

// StrayKept lists the paths of trees that have the name of kept content, as the last looks found
// them, and of which nothing tells whose content they are. Nothing removes them. A path stays in
// the list until a look at all places does not find it.
func (m *Manager) StrayKept() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.strayKept)
}

// seekKept adopts the kept content of which the journal does not know.
//
// Invariant nothing-lost: content that is adopted is kept for the whole of Options.KeepAside from
// then on, also where the note on it says that its removal has begun.
func (m *Manager) seekKept(ctx context.Context) {
	if m.parts.Restorer == nil {
		return
	}
	// The trees of a job that is at work now are the job's own.
	atWork, err := m.journal.Active()
	if err != nil {
		m.parts.Observer.Trouble("", "", "look for kept content", err)
		return
	}
	found, err := m.parts.Restorer.FindKept(ctx)
	if err != nil && ctx.Err() == nil {
		m.parts.Observer.Trouble("", "", "look for kept content", err)
	}
	complete, before := err == nil, m.StrayKept()
	var strays []string
	for _, f := range found {
		if slices.ContainsFunc(atWork, func(j *model.Job) bool { return j.TakesOut(f) }) {
			continue
		}
		known, err := m.journal.KnowsKept(f)
		switch {
		case err != nil:
			m.parts.Observer.Trouble("", "", "look for kept content at "+f.Path, err)
		case known:
		case f.Note == nil:
			strays = append(strays, f.Path)
			if !slices.Contains(before, f.Path) {
				m.parts.Observer.Trouble("", "", "look at "+f.Path, errKeptUnknown)
			}
		default:
			m.adoptKept(ctx, f)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !complete { // a tree that this look has not found need not be gone
		for _, path := range before {
			if !slices.Contains(strays, path) {
				strays = append(strays, path)
			}
		}
	}
	m.strayKept = strays
}

// adoptedEvent tells the control plane that kept content was adopted.
func adoptedEvent(s *model.Aside) (model.Event, error) {
	return decided(model.EventKept, decidedData{
		Instance: s.Instance, Tenant: s.Tenant, Job: s.Job, Replaced: &s.Replaced,
		Reason: "the journal of the host was lost or set back, and did not know the content; it is kept for its whole time from now on",
	})
}

// adoptKept writes the record of a tree of which the journal does not know.
func (m *Manager) adoptKept(ctx context.Context, f model.FoundKept) {
	n := f.Note
	trouble := func(err error) {
		m.parts.Observer.Trouble(n.Instance, n.Job, "adopt the kept content at "+f.Path, err)
	}
	counting, cancel := context.WithTimeout(ctx, actTimeout) // the content on other disks waits for this one
	defer cancel()
	old, counted, err := m.parts.Restorer.Count(counting, f.Place, f.Path)
	switch {
	case err != nil:
		trouble(err)
		return
	case old != f.Place.Old:
		return // it was moved meanwhile
	}
	adopted, err := m.journal.AdoptKept(f, counted, m.opts.Now().UTC(), adoptedEvent)
	switch {
	case err != nil:
		trouble(err)
	case adopted:
		wake(m.outbox)
		trouble(fmt.Errorf("the journal of this host was lost or set back, and does not know the content, which is kept for %s from now on", m.opts.KeepAside))
	}
}
