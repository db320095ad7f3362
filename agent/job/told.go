package job

import (
	"encoding/json"

	"go.etcd.io/bbolt"
)

// Tell adds an event to the outbox that is about no instance, such as the end of a prune of a
// tenant's vault. subject is the line of the outbox, which no instance has for its id: its events
// are delivered in order. nil says that the event reaches the control plane at least once.
func (m *Manager) Tell(kind, subject, tenant string, data json.RawMessage) error {
	err := m.journal.update(func(tx *bbolt.Tx) error {
		return emit(tx, &Job{Instance: subject}, m.opts.Now(), func(*Job) (Event, error) {
			return Event{Type: kind, Tenant: tenant, Data: data}, nil
		})
	})
	if err == nil {
		wake(m.outbox)
	}
	return err
}
