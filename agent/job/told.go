package job

import (
	"encoding/json"

	"holdfast/agent/model"
)

// Tell adds an event to the outbox that is about no instance, such as the end of a prune of a
// tenant's vault. subject is the line of the outbox, which no instance has for its id: its events
// are delivered in order. nil says that the event reaches the control plane at least once.
func (m *Manager) Tell(kind, subject, tenant string, data json.RawMessage) error {
	if err := m.journal.Tell(model.Event{Type: kind, Instance: subject, Tenant: tenant, Data: data}, m.opts.Now()); err != nil {
		return err
	}
	wake(m.outbox)
	return nil
}
