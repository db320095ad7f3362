package job

import (
	"encoding/json"
	"errors"
	"fmt"

	"holdfast/agent/model"
)

// mark notes that the job is about to hold its instance.
func (w *worker) mark(j *model.Job) error {
	if w.m.parts.Marks == nil {
		return nil
	}
	note, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	if err := w.m.parts.Marks.Set(j.Instance, note); err != nil {
		return fmt.Errorf("note that the instance is held: %w", err)
	}
	return nil
}

// unmark removes the note of an instance that nothing holds any more.
func (w *worker) unmark(j *model.Job) error {
	if w.m.parts.Marks == nil {
		return nil
	}
	if err := w.m.parts.Marks.Clear(j.Instance); err != nil {
		return fmt.Errorf("remove the note that the instance is held: %w", err)
	}
	return nil
}

// HeldNote returns the job of a note that Marks keeps.
func HeldNote(instance string, note []byte) (*model.Job, error) {
	var j model.Job
	if err := json.Unmarshal(note, &j); err != nil {
		return nil, fmt.Errorf("the note that instance %q is held is damaged: %w", instance, err)
	}
	if j.Instance != instance || j.ID == "" {
		return nil, fmt.Errorf("the note that instance %q is held is damaged: it is of %q", instance, j.Instance)
	}
	return &j, nil
}

// errJournalLost is why the job of an instance fails that only its note remembers.
var errJournalLost = errors.New("the journal of this host was lost while the job was under way; whatever it had stored was not reported, and the instance is not released")

// adopt takes up, as jobs that failed, the instances that notes say are held and of which the
// journal knows nothing: it was damaged, or removed. They are let go of, and none is released. A
// note of a job that is over goes: a crash, or a fault of the disk, came between the end of a job
// that was given up and the removal of its note. Should the journal be lost later, such a note
// would let an instance go that an operator has taken over.
func (m *Manager) adopt() error {
	if m.parts.Marks == nil {
		return nil
	}
	notes, err := m.parts.Marks.List()
	if err != nil {
		return fmt.Errorf("look for notes of held instances: %w", err)
	}
	for instance, note := range notes {
		j, err := HeldNote(instance, note)
		if err != nil {
			m.parts.Observer.Trouble(instance, "", "read the note that the instance is held", errors.Join(errors.New("it is damaged; look whether the instance is frozen, and let it go"), err))
			continue
		}
		adopted, over, err := m.journal.Adopt(*j, errJournalLost.Error())
		if err != nil {
			return err
		}
		if over {
			if err := m.parts.Marks.Clear(instance); err != nil {
				m.parts.Observer.Trouble(instance, j.ID, "remove the note that the instance is held, although its job is over", err)
			}
		}
		if adopted {
			m.parts.Observer.Trouble(instance, j.ID, "go on with a job that the journal has lost", errJournalLost)
		}
	}
	return nil
}
