package job

import (
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/model"
)

// errTakenOut says of the tree at a stage that a restore has taken it out of its place, of which
// the journal does not know.
var errTakenOut = errors.New("the note on the tree says that a restore has taken it out of its place, so the journal of this host was set back to an earlier state; " +
	"the agent leaves the tree alone and keeps it as replaced content within two hours (`holdfast kept list`). The volumes of the instance may be of two times: " +
	"look at them before the instance is started")

// discardTree removes the tree at the stage of a place. It is the only caller of Restorer.Discard.
//
// Invariant nothing-lost: a journal that was set back names neither the restored tree nor the old
// tree, and says the same as the journal of a restore that a crash has cut off. The old tree, which
// may be newer than every backup, lies at the stage then, and bears a note since before it left its
// place. A tree that a restore has built bears none. So a tree that the journal does not identify
// is removed only where no note is on it. The error wraps errTakenOut otherwise.
//
// The removal of an old tree that the journal identifies is noted on that tree first: a removal
// that stops halfway leaves a part of the tree, which must never be taken for the whole.
func (m *Manager) discardTree(p model.Place) error {
	switch {
	case p.Old == "" && p.Tree == "":
		n, err := m.parts.Restorer.NoteOn(p, p.Stage)
		if err != nil {
			return fmt.Errorf("look whose content lies at %s: %w", p.Stage, err)
		}
		if n != nil {
			return fmt.Errorf("%s, which was at %s until job %s of instance %q: %w", p.Stage, n.Target, n.Job, n.Instance, errTakenOut)
		}
	case p.Old != "" && !p.Empty: // an empty folder goes in one step
		if err := m.noteRemoval(p, p.Stage); err != nil {
			return err
		}
	}
	return m.parts.Restorer.Discard(p)
}

// clearStage removes the remains of an earlier try of a restore from the stage of a place. It fails
// with errTakenOut where the old tree of the place is kept aside for that very job already: the
// volume in the place is a restored one then, which the instance may have written to since.
func (w *worker) clearStage(j *model.Job, p model.Place) error {
	first := slices.ContainsFunc(j.Restore.Out, func(out model.Place) bool { return out.Volume == p.Volume })
	if !first { // an old volume that is removed before the restore lies there as well
		aside := asideOf(p, j.ID)
		n, err := w.m.parts.Restorer.NoteOn(p, aside)
		if err != nil {
			return fmt.Errorf("look whose content lies at %s: %w", aside, err)
		}
		if n != nil && n.Job == j.ID {
			return fmt.Errorf("%s, which was at %s: %w", aside, p.Target, errTakenOut)
		}
	}
	return w.m.discardTree(p)
}
