package api

import (
	"encoding/json"
	"time"
)

// What prepare says of an instance, as far as this agent has it: the contract
// has more values (2 to be assigned, 3 backing up, 4 resetting, 5 restarting, 6
// offline, 7 replacing, 8 restoring from an expiry backup, 10 maintenance), of
// which the agent knows nothing, or which it refuses with a code of their own.
const (
	PrepareReady    = 0 // its volumes are in their places
	PrepareRestore  = 1 // to be restored: its job waits, or is at work
	PrepareAbnormal = 9 // the restore failed
)

// What prepare-progress says.
const (
	ProgressNormal = 0 // ready
	ProgressQueued = 1 // its job waits; waitingCount says behind how many others
	// being restored; or offline: its data is not on this host, and no job brings it
	ProgressRestoring = 2
	ProgressFailed    = -1 // the last restore failed
	ProgressBackup    = 3  // being backed up, or held with a backup
)

// What batch-query-status says. The contract's 3, streaming, is of instances
// that run before all of their data is there, which this agent has none of.
const (
	InstanceIdle      = 0 // its data is not on this host, or it was released from it
	InstanceRestoring = 1 // also while that waits for its turn
	InstanceLoaded    = 2 // its data is on this host
	InstanceBackup    = 4 // from the command to the release
	// the last backup failed, its report was refused, or the storage does not answer
	InstanceBackupAbnormal  = 5
	InstanceRestoreAbnormal = 6 // the last restore failed
)

// PrepareAnswer is the answer to an accepted prepare. StatusList stands beside the data, not in it.
type PrepareAnswer struct {
	TaskAnswer
	StatusList []InstanceStatus `json:"-"`
}

// InstanceStatus is the state of one instance, in the words of the call that asks for it.
type InstanceStatus struct {
	InstanceID string `json:"instance_id"`
	Status     int    `json:"status"`
}

// PrepareProgress is how far an instance is from being ready.
type PrepareProgress struct {
	Status       int `json:"status"`       // one of the Progress constants
	WaitingCount int `json:"waitingCount"` // jobs before it, where it is queued
}

// Where a limit comes from.
const (
	FromOperator      = "operator"      // set by a call, until the agent ends
	FromSchedule      = "schedule"      // a window of the configuration's bandwidth.schedule
	FromConfiguration = "configuration" // bandwidth, outside of all windows
)

// Throttle is what bounds the calls to the host's store, over all its jobs.
type Throttle struct {
	Up         Limit     `json:"up"`       // bytes a second
	Down       Limit     `json:"down"`     // bytes a second
	Requests   Limit     `json:"requests"` // a second
	NextChange time.Time `json:"next_change,omitzero"`
	// Requests under way, requests that wait for one of them to end, and how many
	// may be under way: as many as the agent found out that the store bears.
	InFlight int `json:"in_flight"`
	Waiting  int `json:"waiting"`
	Level    int `json:"level"`
}

// Limit is one limit and where it comes from.
type Limit struct {
	Limit int64  `json:"limit"` // 0 is none
	From  string `json:"from"`  // one of the From constants
}

// InForce tells whether anything is limited.
func (t Throttle) InForce() bool {
	return t.Up.Limit != 0 || t.Down.Limit != 0 || t.Requests.Limit != 0
}

// ThrottleSetting is an operator's setting: 0 is no limit, nil the limit of the configuration.
type ThrottleSetting struct {
	// bytes a second, 0 or obs.MinRate to MaxThrottleBytes
	Up       *int64 `json:"up,omitempty"`
	Down     *int64 `json:"down,omitempty"`     // the same
	Requests *int64 `json:"requests,omitempty"` // a second, 0 to MaxThrottleRequests
}

// RefusedReport is a report that the control plane refused for
// good, or that waits for its acknowledgement. Times are UTC.
type RefusedReport struct {
	Number     uint64    `json:"number"` // as ReportEvent.Seq
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	Time       time.Time `json:"time"` // of the reported state
	InstanceID string    `json:"instance_id"`
	TaskID     string    `json:"task_id"`
	JobID      string    `json:"job_id"`
	Refused    time.Time `json:"refused,omitzero"` // zero for a report that waits
	// who refused it and why, or why it was not acknowledged when it was sent last
	Reason string `json:"reason,omitempty"`
}

// KeptContent is the content that one restore has replaced of an instance, and that is kept. Times
// are UTC. The record of the content (model.Aside) counts by the journal's clock.
type KeptContent struct {
	InstanceID string    `json:"instance_id"`
	JobID      string    `json:"job_id"` // that has replaced it
	Since      time.Time `json:"since"`
	// Seconds is for how long it is kept, and Left until it is removed by itself. Only time in
	// which the host is up counts.
	Seconds float64   `json:"seconds"`
	Left    float64   `json:"seconds_left"`
	Files   uint64    `json:"files"`
	Bytes   uint64    `json:"bytes"`
	Newest  time.Time `json:"newest_mtime,omitzero"` // the latest time of modification
	AtLeast bool      `json:"at_least,omitempty"`    // the count stopped at a bound
	// KnownBackup is the backup from which this host knew the content to come; "": of none.
	KnownBackup string       `json:"known_backup,omitempty"`
	ReplacedBy  string       `json:"replaced_by,omitempty"` // a backup
	Volumes     []KeptVolume `json:"volumes"`
	Removing    bool         `json:"removing,omitempty"` // it is being removed
	// Adopted is when the agent found the content, of which its journal did not know; zero for
	// others. The time for which it is kept began then.
	Adopted time.Time `json:"adopted,omitzero"`
	// Partial says that a removal had begun, so that the content may not be
	// whole. It can't be put back.
	Partial bool   `json:"partial,omitempty"`
	Error   string `json:"error,omitempty"` // why it could not be removed or renamed yet
}

// KeptVolume is one volume of it.
type KeptVolume struct {
	Name string `json:"name"`
	Path string `json:"path"` // where it is kept
	From string `json:"from"` // where it was
}

// Loss lists the backups of an instance that this host knows and the store does not have.
type Loss struct {
	InstanceID string        `json:"instance_id"`
	Lost       []KnownBackup `json:"lost"`
	// Newest is the newest backup that the store has; nil: the store has no backup of the instance.
	Newest *KnownBackup `json:"newest,omitempty"`
	// Accepted says that the loss is accepted already, or now.
	Accepted bool `json:"accepted"`
	// AcceptedBy and AcceptedAt (UTC) tell who accepted the loss and when.
	AcceptedBy string    `json:"accepted_by,omitempty"`
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
}

// KnownBackup names a backup of an instance.
type KnownBackup struct {
	BackupID string    `json:"backup_id"`
	Sequence uint64    `json:"sequence"`
	Created  time.Time `json:"created,omitzero"` // UTC
}

// LossConfirmed repeats the loss that was shown, so that nothing else is accepted.
type LossConfirmed struct {
	Lost     []string `json:"lost"`      // ids
	BackupID string   `json:"backup_id"` // of the newest; "" where the store has none
}

// Abandoned is the end of a job that was given up.
type Abandoned struct {
	JobID string `json:"job_id"`
	// Ended says that the job is over; else the job ends when the act under way comes back.
	Ended bool `json:"ended"`
	// Message says in what state the instance is left.
	Message string `json:"message"`
}

// ClaimInfo is a claim on an instance.
type ClaimInfo struct {
	InstanceID string `json:"instance_id"`
	Host       string `json:"host"`
	ThisHost   bool   `json:"this_host"`
	JobID      string `json:"job_id"`
	BackupID   string `json:"backup_id,omitempty"` // that the host prepared
	// Since is by the clock of that host, and Renewed, the last sign of life, by the clock of the
	// store. SilentSeconds compares Renewed with the clock of this host; never below 0.
	Since         time.Time `json:"since"`
	Renewed       time.Time `json:"renewed"`
	SilentSeconds float64   `json:"silent_seconds"`
	// Took counts the claims of other hosts that it took over, and Reason says why.
	Took   int    `json:"took,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// ReportGap is the type of a ReportEvent that tells about events that
// are no longer kept: Seq is the number of the last missing event.
const ReportGap = "gap"

// ReportEvent is the content of one report to the control plane. Its number, Seq, grows
// over the journal's life and is the id of the server-sent event; its type is the event's.
// The event (model.Event) also names its tenant, by which the Service picks the readers.
type ReportEvent struct {
	Seq uint64 `json:"seq"`
	// as in reports, such as holdfast.backup.completed; ReportGap; "" keeps the line alive
	Type       string          `json:"type"`
	ID         string          `json:"id,omitempty"`
	Time       time.Time       `json:"time,omitzero"` // UTC
	InstanceID string          `json:"instance_id,omitempty"`
	TaskID     string          `json:"task_id,omitempty"`
	JobID      string          `json:"job_id,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
}

// Lists as they are sent: an object, so that fields can be added beside the list.
type (
	instanceList struct {
		Instances []InstanceInfo `json:"instances"`
	}
	jobList struct {
		Jobs []JobInfo `json:"jobs"`
		// Next is the query parameter before of the next page; 0 when this page is the last.
		Next uint64 `json:"next,omitempty"`
	}
)

// notNil makes an empty list [] in JSON, where nil would be null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// maxJobs is the most jobs of one page of a list, and how many a
// page has where the caller says nothing: some 500 KB.
const maxJobs = 1000

type refusedList struct {
	Reports []RefusedReport `json:"reports"`
}

type keptList struct {
	Kept []KeptContent `json:"kept"`
}

type claimList struct {
	Claims []ClaimInfo `json:"claims"`
}
