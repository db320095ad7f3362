// Package api is the way in: the control plane's contract over HTTPS, the operator's
// calls over a unix socket, and the client of the latter that the command line uses.
//
// It knows HTTP, the contract's codes and limits, and nothing about jobs: every accepted
// call goes to a Service, which package agent implements over the journal. An
// Authenticator decides who calls; package agent gives it the Authenticator of agent/auth
// (same level, so neither package imports the other). Callers, jobs of tasks and progress are
// the types of agent/model. A type of this package that resembles another one of agent/model is
// the form on the wire: it leaves out the facts that callers must not know, and its names stay
// when a record of the journal changes.
//
// The package starts no goroutine: handlers run on the goroutines of net/http and return
// when the request's context ends. A crash leaves nothing, as nothing is kept here.
package api

import (
	"context"
	"time"

	"holdfast/agent/model"
)

// addressKey is the key of the caller's address in a context.
type addressKey struct{}

// Address is the address of the caller, without its port, in the
// context that an Authenticator gets; "" in any other.
func Address(ctx context.Context) string {
	address, _ := ctx.Value(addressKey{}).(string)
	return address
}

// Authenticator tells who holds a token. It is called from many goroutines at the same time, before
// the request's body is read. The token is never empty and never longer than MaxTokenBytes.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (model.Caller, error)
}

// AuthFunc is a function as an Authenticator. The errors by which the answer is chosen are
// model.ErrUnknownToken, model.ErrAuthUnavailable and model.ErrAuthTooOften.
type AuthFunc func(ctx context.Context, token string) (model.Caller, error)

// Authenticate calls f.
func (f AuthFunc) Authenticate(ctx context.Context, token string) (model.Caller, error) {
	return f(ctx, token)
}

// TaskAnswer is the answer to an accepted command.
type TaskAnswer struct {
	TaskID string         `json:"task_id"`
	Jobs   []model.JobRef `json:"cmd_jobs"`
}

// The contract's job states.
const (
	StatusRunning = 1
	StatusSuccess = 2
	StatusFailed  = -1
)

// TaskStatus is how a task's jobs stand, in the contract's words.
type TaskStatus struct {
	Jobs []JobStatus `json:"jobs"`
}

// JobStatus is one job in the contract's words. Code and message are "0" and "OK" unless it failed.
type JobStatus struct {
	JobID      string `json:"job_id"`
	Status     int    `json:"status"` // StatusRunning, StatusSuccess or StatusFailed
	ErrorCode  string `json:"error_code"`
	ErrorMsg   string `json:"error_msg"`
	ExecuteMsg string `json:"execute_msg"` // for people; cut to MaxExecuteMsgBytes when sent
}

// Info is about the agent as a whole. Times are UTC.
type Info struct {
	Version        string    `json:"version"`
	HostID         string    `json:"host_id"`
	Started        time.Time `json:"started"`
	Draining       bool      `json:"draining"`
	Store          string    `json:"store"` // its URL, nothing secret
	Instances      int       `json:"instances"`
	JobsActive     int       `json:"jobs_active"`
	JobsQueued     int       `json:"jobs_queued"`
	ReportsPending int       `json:"reports_pending"` // in the outbox, not acknowledged yet
	ReportsRefused int       `json:"reports_refused"` // refused for good, and kept; see Refuser
	// What fails now, and the states in which a human must act, the
	// most urgent first; none for callers that do not see every tenant.
	Troubles []Trouble `json:"troubles,omitempty"`
	// What bounds the calls to the store; nil where nothing does, and
	// for callers that do not see every tenant.
	Throttle *Throttle `json:"throttle,omitempty"`
	// Things that could not be removed and take up space;
	// none for callers that do not see every tenant.
	Leftovers []Leftover `json:"leftovers,omitempty"`
}

// Leftover is a snapshot that nothing needs, or a replaced volume of a restore, that could not be
// removed. The agent tries again. It is model.Leftover on the wire, without the engine's places.
type Leftover struct {
	Path       string    `json:"path"`
	InstanceID string    `json:"instance_id,omitempty"`
	JobID      string    `json:"job_id,omitempty"`
	Since      time.Time `json:"since"` // UTC
	Error      string    `json:"error"` // of the last try
}

// Trouble is something that fails, or waits for a human. agent/STATES.md has all names.
type Trouble struct {
	Name       string    `json:"name"`
	InstanceID string    `json:"instance_id,omitempty"`
	JobID      string    `json:"job_id,omitempty"`
	Since      time.Time `json:"since"` // UTC
	// how long it lasts, by a clock that nobody can set
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error"`          // the latest
	Hint    string  `json:"hint,omitempty"` // the operator's remedy
	More    int     `json:"more,omitempty"` // how many others of the name are left out
}

// Trouble is the first trouble of the name; nil when there is none.
func (i Info) Trouble(name string) *Trouble {
	for n := range i.Troubles {
		if i.Troubles[n].Name == name {
			return &i.Troubles[n]
		}
	}
	return nil
}

// InstanceInfo is one configured instance.
type InstanceInfo struct {
	ID          string    `json:"id"`
	Tenant      string    `json:"tenant"`
	Runtime     string    `json:"runtime"` // docker, exec or none
	State       string    `json:"state"`   // of the instance, by its runtime
	Release     string    `json:"release"` // agent or control-plane
	JobID       string    `json:"job_id,omitempty"`
	Stage       string    `json:"stage,omitempty"` // of that job
	Volumes     []Volume  `json:"volumes"`
	LastBackup  string    `json:"last_backup,omitempty"`
	LastSuccess time.Time `json:"last_success,omitzero"`
}

// Volume is one volume of an instance.
type Volume struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// as the configuration has it: auto, or the name of a provider
	Snapshot string `json:"snapshot"`
	// Provider is the way in which a backup would read now, and Means the
	// consequences for the instance; "" while the volume was not looked at.
	Provider string `json:"provider,omitempty"`
	Means    string `json:"means,omitempty"`
}

// JobFilter picks jobs; the zero value lets all through.
type JobFilter struct {
	TaskID     string
	InstanceID string
	Active     bool // only unfinished jobs
	// Before lists only jobs that are older than the last of the page
	// before (next of Service.Jobs); 0 begins with the newest.
	Before uint64
	Limit  int // jobs of a page; 0 is no limit
}

// JobInfo is one job, with all that operators want to see of it. Times are UTC, zero where not
// reached. The record of the job (model.Job) also has the evidence on which a release rests.
type JobInfo struct {
	JobID        string         `json:"job_id"`
	TaskID       string         `json:"task_id"`
	InstanceID   string         `json:"instance_id"`
	Tenant       string         `json:"tenant"`
	Kind         string         `json:"kind"`  // backup, restore
	Stage        string         `json:"stage"` // of the state machine
	Status       int            `json:"status"`
	ErrorCode    string         `json:"error_code,omitempty"`
	ErrorMsg     string         `json:"error_msg,omitempty"`
	Message      string         `json:"message,omitempty"`
	Trouble      *Trouble       `json:"trouble,omitempty"` // what fails now of a job that has not ended
	BackupID     string         `json:"backup_id,omitempty"`
	Created      time.Time      `json:"created"`
	Updated      time.Time      `json:"updated"`
	Ended        time.Time      `json:"ended,omitzero"`
	FrozenSince  time.Time      `json:"frozen_since,omitzero"`
	Acknowledged bool           `json:"acknowledged"` // its report
	Progress     model.Progress `json:"progress"`
}

// Types of Event.
const (
	EventStage    = "stage"    // the job entered Stage
	EventProgress = "progress" // Progress is set
	EventWarning  = "warning"  // Message is set; the job goes on
	// the job ended; Status, and on failure ErrorCode and ErrorMsg, are set
	EventEnded = "ended"
	// the stream itself ends before the task did; ErrorCode and ErrorMsg say why
	EventError = "error"
)

// Event is one line of a task's stream.
type Event struct {
	Time       time.Time       `json:"time"` // UTC
	Type       string          `json:"type"`
	TaskID     string          `json:"task_id"`
	JobID      string          `json:"job_id,omitempty"`
	InstanceID string          `json:"instance_id,omitempty"`
	Stage      string          `json:"stage,omitempty"`
	Status     int             `json:"status,omitempty"`
	ErrorCode  string          `json:"error_code,omitempty"`
	ErrorMsg   string          `json:"error_msg,omitempty"`
	Message    string          `json:"message,omitempty"`
	BackupID   string          `json:"backup_id,omitempty"`
	Progress   *model.Progress `json:"progress,omitempty"`
}
