package model

import (
	"encoding/json"
	"errors"
)

// Errors by which a caller decides.
var (
	// ErrRequestReused says that the request id was used before with another body.
	ErrRequestReused = errors.New("request id was used before with another body")
	// ErrQueueFull says that as many jobs wait as the configuration allows.
	ErrQueueFull = errors.New("the queue is full")
	// ErrNotFound says that no such task, job or instance is known.
	ErrNotFound = errors.New("not found")
	// ErrState says that the job is not in a state in which that can be asked.
	ErrState = errors.New("not possible in this state")
	// ErrNoBackup says that the vault has no backup of an instance.
	ErrNoBackup = errors.New("the vault has no backup of this instance")
	// ErrBegun says that PowerDown failed after it had begun: the instance may be down,
	// in part or all of it, and has to go down. An error of PowerDown without ErrBegun
	// says that the instance is unchanged.
	ErrBegun = errors.New("the power-down has begun")
)

// BusyError says which instances have an unfinished job.
type BusyError struct {
	Instances []string // all of them
	Restoring []string // those whose job is a restore
	Unknown   []string // those whose job has the state Unknown
}

func (e *BusyError) Error() string {
	if len(e.Unknown) > 0 {
		return "instances whose jobs are not understood: " + quoteAll(e.Unknown)
	}
	if len(e.Restoring) > 0 {
		return "instances in recovery: " + quoteAll(e.Restoring)
	}
	return "instances in backup: " + quoteAll(e.Instances)
}

func quoteAll(names []string) string {
	b, err := json.Marshal(names)
	if err != nil {
		return ""
	}
	return string(b)
}

// Add counts the unfinished job of an instance.
func (e *BusyError) Add(j *Job) {
	e.Instances = append(e.Instances, j.Instance)
	if j.IsRestore() {
		e.Restoring = append(e.Restoring, j.Instance)
	}
	if j.State == Unknown {
		e.Unknown = append(e.Unknown, j.Instance)
	}
}
