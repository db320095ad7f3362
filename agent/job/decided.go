package job

import (
	"encoding/json"
	"fmt"

	"holdfast/agent/model"
)

// Events that no step of a job makes: decisions of operators about an instance, and content that
// was found beside its volumes. The control plane is told of them as of all else.

// The decisions of EventDecided.
const (
	decidedLoss    = "loss_accepted"
	decidedRemoval = "kept_removed"
)

// decidedData is the data of EventDecided and EventKept.
type decidedData struct {
	Instance string `json:"instance_id"`
	Tenant   string `json:"tenant"`
	// Job has replaced the content that was removed, or that was found.
	Job      string `json:"job_id,omitempty"`
	Decision string `json:"decision,omitempty"`
	By       string `json:"by,omitempty"`
	// Lost are the backups whose loss was accepted, and BackupID is the backup in the store that
	// counts as the newest from then on; "": the store has none.
	Lost     []string        `json:"lost,omitempty"`
	BackupID string          `json:"backup_id,omitempty"`
	Replaced *model.Replaced `json:"replaced,omitempty"`
	Reason   string          `json:"reason,omitempty"`
}

// decided makes an event that no step of a job makes.
func decided(kind string, d decidedData) (model.Event, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return model.Event{}, fmt.Errorf("encode event: %w", err)
	}
	return model.Event{Type: kind, Instance: d.Instance, Job: d.Job, Tenant: d.Tenant, Data: b}, nil
}

// AcceptLoss journals that an operator accepts the loss of backups of an instance, in the place of
// the loss that was accepted before, and tells the control plane. A *BusyError while a job works on
// the instance: that job has decided by what held before.
func (m *Manager) AcceptLoss(instance, tenant string, a model.AcceptedLoss) error {
	d := decidedData{Instance: instance, Tenant: tenant, Decision: decidedLoss, By: a.By, BackupID: a.Newest.Backup}
	for _, lost := range a.Lost {
		d.Lost = append(d.Lost, lost.Backup)
	}
	e, err := decided(model.EventDecided, d)
	if err != nil {
		return err
	}
	if err := m.journal.AcceptLoss(instance, a, e, m.opts.Now()); err != nil {
		return err
	}
	wake(m.outbox)
	return nil
}
