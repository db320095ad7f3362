package job

import (
	"fmt"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// Refused returns the reports that the control plane refused, oldest first.
func (m *Manager) Refused() ([]model.Refused, error) { return m.journal.Refused() }

// RetryRefused sends a refused report again, with the same id.
// ErrNotFound when there is none of that number.
func (m *Manager) RetryRefused(seq uint64) error {
	moved, err := m.journal.RetryRefused(seq, m.opts.Now())
	if err != nil {
		return err
	}
	wake(m.outbox)
	m.tell(moved)
	return nil
}

// DropRefused forgets a refused report: the control plane never gets it. ErrNotFound
// when there is none of that number, ErrState when an instance is held for it.
func (m *Manager) DropRefused(seq uint64) error { return m.journal.DropRefused(seq) }

// GiveUp takes a report out of the outbox that is never acknowledged, as Refuse does, so that
// later reports of its instance get through. ErrNotFound when none of that number waits.
func (m *Manager) GiveUp(seq uint64) error {
	waits, err := m.journal.InOutbox(seq)
	if err != nil {
		return err
	}
	if !waits {
		return fmt.Errorf("waiting report %d: %w", seq, model.ErrNotFound)
	}
	return m.settle(crashpoint.WriteHeld, []uint64{seq}, "an operator gave the report up, which was not acknowledged")
}

// Waiting returns the oldest undelivered event of each instance, oldest first.
func (m *Manager) Waiting() ([]model.Event, error) { return m.journal.Heads(journal.MaxOutbox, nil) }

// tell tells everybody, and the job's worker, about a job that a transaction has moved.
func (m *Manager) tell(one journal.Moved) {
	if one.Job != nil {
		m.changed(one.Job, one.From)
		m.signal(one.Job.ID)
	}
}
