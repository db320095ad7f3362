package job

import (
	"encoding/json"
	"fmt"

	"holdfast/agent/model"
)

// eventData is the body of an event, beside what every event has.
type eventData struct {
	Task     string `json:"task_id"`
	Job      string `json:"job_id"`
	Instance string `json:"instance_id"`
	Tenant   string `json:"tenant"`
	BackupID string `json:"backup_id,omitempty"`
	// of a stored or restored backup, the one from which it came
	Parent string `json:"parent,omitempty"`
	// the other newest backups of the instance, which the stored one does not descend from
	Fork []model.Fork `json:"fork,omitempty"`
	// the decision that ended that fork; nil while nobody has decided
	ForkDecided   *forkData `json:"fork_decided,omitempty"`
	Files         uint64    `json:"files,omitempty"`
	Bytes         uint64    `json:"bytes,omitempty"` // content of the backup
	BytesRead     uint64    `json:"bytes_read,omitempty"`
	BytesNew      uint64    `json:"bytes_new,omitempty"`
	BytesSent     uint64    `json:"bytes_sent,omitempty"`
	BytesRestored uint64    `json:"bytes_restored,omitempty"`
	BytesTotal    uint64    `json:"bytes_total,omitempty"` // of a restore
	BytesFetched  uint64    `json:"bytes_fetched,omitempty"`
	// of a restore: differences from the backed-up state
	Warnings int `json:"warnings,omitempty"`
	// of a restore: what people should know of the instance, in plain words; see Restore.Warning
	Warning string `json:"warning,omitempty"`
	// places without their content, where the configuration accepts it
	LossesAccepted int  `json:"losses_accepted,omitempty"`
	AlreadyReady   bool `json:"already_ready,omitempty"` // nothing had to be restored
	// of a restore: the old content in the places of the volumes
	Replaced *model.Replaced `json:"replaced,omitempty"`
	// the job whose replaced volumes a restore has put back; "": it restored a backup
	PutBack       string  `json:"put_back,omitempty"`
	FreezeSeconds float64 `json:"freeze_seconds,omitempty"`
	// why a job failed or is held, in plain words
	Reason  string          `json:"reason,omitempty"`
	Volumes []volumeData    `json:"volumes,omitempty"` // of a stored backup
	Receipt json.RawMessage `json:"receipt,omitempty"`
}

// volumeData says how a volume was read, and the consequences for the instance.
type volumeData struct {
	Volume   string `json:"volume"`
	Provider string `json:"provider"`
	InPlace  bool   `json:"in_place,omitempty"` // the volume itself was read, and no snapshot
	// for how long the instance is held for it, in words
	Held string `json:"held,omitempty"`
}

// volumesRead tells how the volumes of a stored backup were read. Its snapshots stand.
func volumesRead(j *model.Job) (read []volumeData) {
	for _, s := range j.Snapshots {
		v := volumeData{Volume: s.Name, Provider: s.Ref.Provider, InPlace: !s.Live}
		if j.Mode != model.ModeLive {
			v.Held = s.Held
		}
		read = append(read, v)
	}
	return read
}

func (m *Manager) eventData(j *model.Job) eventData {
	d := eventData{
		Task: j.Task, Job: j.ID, Instance: j.Instance, Tenant: j.Tenant,
		FreezeSeconds: j.FreezeSeconds(m.journal.Up()),
	}
	if j.Result != nil {
		d.BackupID, d.Files = j.Result.BackupID, j.Result.Files
		d.Parent, d.Fork, d.ForkDecided = j.Result.Parent, j.Result.Fork, forkDataOf(j)
		d.Bytes = j.Result.Bytes
		d.LossesAccepted = j.Result.LossesAccepted
		d.BytesRead, d.BytesNew, d.BytesSent = j.Result.BytesRead, j.Result.BytesNew, j.Result.BytesSent
	}
	d.PutBack = j.PutBack
	if r := j.Restore; r != nil {
		d.BackupID, d.AlreadyReady, d.Replaced, d.Warning = r.Backup, r.Ready, r.Replaced, r.Warning
		if res := r.Result; res != nil {
			d.Files, d.BytesRestored, d.BytesTotal = res.Files, res.Bytes, res.Bytes
			d.BytesFetched, d.Warnings, d.Parent = res.BytesFetched, res.Warnings, res.Parent
		}
	}
	return d
}

// event makes the event of the type for a job's transaction.
func (m *Manager) event(kind string) func(*model.Job) (model.Event, error) {
	return func(j *model.Job) (model.Event, error) {
		d := m.eventData(j)
		if kind == model.EventFailed || kind == model.EventRestoreFailed || kind == model.EventGone {
			d.Reason = j.Cause
		}
		b, err := json.Marshal(d)
		if err != nil {
			return model.Event{}, fmt.Errorf("encode event: %w", err)
		}
		return model.Event{Type: kind, Data: b}, nil
	}
}

// forkData is a decision in an event.
type forkData struct {
	Backup string `json:"backup"`          // that counts
	By     string `json:"by"`              // in words
	Host   string `json:"host,omitempty"`  // where it was decided; "" is this host
	Asked  string `json:"asked,omitempty"` // the backup for which this host was to decide later
}

func forkDataOf(j *model.Job) *forkData {
	if !j.Forked() || !j.Fork.Stored {
		return nil
	}
	return &forkData{j.Fork.Backup, j.Fork.By, j.Fork.Host, j.Fork.Asked}
}
