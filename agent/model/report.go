package model

import (
	"encoding/json"
	"time"
)

// Event is one report to the control plane, in the journal and on its way. Data is a JSON
// object. The events of one instance are delivered in the order of Seq.
type Event struct {
	Seq      uint64    `json:"seq"` // 0: not in the journal, may be lost
	ID       string    `json:"id"`  // the same each time it is sent
	Type     string    `json:"type"`
	Instance string    `json:"instance"`
	Task     string    `json:"task"`
	Job      string    `json:"job"`
	Time     time.Time `json:"time"` // UTC
	// Tenant is the owner where no step of a job made the event; else the tenant of the job.
	Tenant string          `json:"tenant,omitempty"`
	Data   json.RawMessage `json:"data"`
}

// Types of events.
const (
	EventStarted   = "holdfast.backup.started"
	EventProgress  = "holdfast.backup.progress"
	EventCompleted = "holdfast.backup.completed"
	EventFailed    = "holdfast.backup.failed"
	EventGone      = "holdfast.backup.gone" // the store lost a part of it; the instance is held
	EventReleased  = "holdfast.instance.released"
	EventResumed   = "holdfast.instance.resumed"

	EventDecided = "holdfast.instance.decided" // an operator of the host has decided about it
	// content that a restore had replaced was found beside the volumes, unknown to the journal
	EventKept = "holdfast.instance.kept"

	EventRestoreStarted   = "holdfast.restore.started"
	EventRestoreProgress  = "holdfast.restore.progress"
	EventRestoreCompleted = "holdfast.restore.completed"
	EventRestoreFailed    = "holdfast.restore.failed"
)

// Refused is a report that the control plane refused for good, or that an
// operator gave up. It stays in the journal until an operator sends it again
// or drops it, or until a release sends the report of that backup again.
type Refused struct {
	Event
	Reason string    `json:"reason"` // who refused it, and why
	Since  time.Time `json:"since"`  // when it was refused, UTC
}

// Progress is how far an upload or a restore is, in events, lists of jobs and streams of tasks.
type Progress struct {
	Files     uint64 `json:"files"`
	BytesRead uint64 `json:"bytes_read"`
	BytesNew  uint64 `json:"bytes_new"`  // not found in the vault
	BytesSent uint64 `json:"bytes_sent"` // compressed and sealed
	// Of a restore; the others but Files are 0 then. Files are entries of any sort.
	BytesRestored uint64 `json:"bytes_restored,omitempty"`
	BytesTotal    uint64 `json:"bytes_total,omitempty"`
}
