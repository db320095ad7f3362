// Package api is the way in: the control plane's contract over HTTPS, the operator's
// calls over a unix socket, and the client of the latter that the command line uses.
//
// It knows HTTP, the contract's codes and limits, and nothing about jobs: every accepted
// call goes to a Service, which package agent implements over the journal. An
// Authenticator decides who calls; package agent adapts the Authenticator of agent/auth to
// it (same level, so neither package imports the other; AuthFunc makes that a few lines).
//
// The package starts no goroutine: handlers run on the goroutines of net/http and return
// when the request's context ends. A crash leaves nothing, as nothing is kept here.
package api

import (
	"context"
	"errors"
	"time"
)

// Role says which acts a caller may command. Caller.Tenant says which instances it may see.
type Role string

// The roles. Anything else may do nothing.
const (
	// RoleControlPlane commands backups, releases and resumes, and sees tasks.
	RoleControlPlane Role = "control-plane"
	// RoleOperator may do everything, and sees every tenant.
	RoleOperator Role = "operator"
	// RoleReadOnly sees, and changes nothing.
	RoleReadOnly Role = "read-only"
	// RoleTenant commands and sees the instances of its own tenant.
	RoleTenant Role = "tenant"
)

// Caller is who sent a request, as the Authenticator found it.
type Caller struct {
	Tenant string // "" is every tenant
	User   string // "" where the token names no user
	Role   Role
	// Via is how the caller is known, for the audit: token, certificate NAME, uid N pid N.
	Via string
}

// Sees tells whether the caller may learn anything about what belongs to tenant.
func (c Caller) Sees(tenant string) bool {
	return c.SeesAll() || c.Tenant == tenant && tenant != ""
}

// SeesAll tells whether the caller sees every tenant: an operator, or a control plane or
// reader whose token is bound to no tenant. A tenant's token without a tenant sees nothing.
func (c Caller) SeesAll() bool {
	return c.Role == RoleOperator || c.Tenant == "" && (c.Role == RoleControlPlane || c.Role == RoleReadOnly)
}

// Commands tells whether the caller may change anything.
func (c Caller) Commands() bool {
	return c.Role == RoleOperator || c.Role == RoleControlPlane || c.Role == RoleTenant
}

// Authentication failures; an Authenticator wraps or returns them.
var (
	// ErrUnknownToken says that nobody known has this token, or that
	// it has expired. Answered .0000.
	ErrUnknownToken = errors.New("unknown token")
	// ErrAuthUnavailable says that the token can't be checked now. The
	// call is refused (CodeAuthAway), and may be tried again later.
	ErrAuthUnavailable = errors.New("tokens cannot be checked now")
	// ErrAuthTooOften says that so many unknown tokens came that this one is not
	// checked. The call is refused as one too many, and may be tried again later.
	ErrAuthTooOften = errors.New("too many unknown tokens")
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
	Authenticate(ctx context.Context, token string) (Caller, error)
}

// AuthFunc is a function as an Authenticator, for the adapter in package agent: it
// calls the one of agent/auth, turns auth.ErrUnknownToken and auth.ErrUnavailable into
// the two errors above, and copies the three fields of the caller, which mean the same.
type AuthFunc func(ctx context.Context, token string) (Caller, error)

// Authenticate calls f.
func (f AuthFunc) Authenticate(ctx context.Context, token string) (Caller, error) {
	return f(ctx, token)
}

// Service does the work of the calls. All methods may be called from many goroutines
// at the same time. An error that is an *Error is answered as it is; any other
// becomes .9999 with a reference, and its text goes to the log only. Methods check
// whose the things are (Caller.Sees); the handlers have checked the role already.
type Service interface {
	Preparer
	Throttler
	Refuser
	Forker
	Keeper
	WaysOut
	Claims
	Vaults
	// Backup accepts one command for all of instanceIDs or for none, and returns once the task
	// is in the journal. The ids have the right form and no duplicates. The same requestID of
	// the same tenant with the same digest gives the first answer again, with another digest an
	// Error with CodeParameter. Request ids of different tenants (Caller.Tenant) are different
	// commands. The deadline is when the host is needed; zero when there is no haste.
	Backup(ctx context.Context, c Caller, requestID string, digest [32]byte, instanceIDs []string, deadline time.Time) (TaskAnswer, error)
	// Reports calls send for each report after the report with the number after, or
	// with nil for the reports from now on, until the context ends (nil), or send
	// fails (its error). The caller gets the reports that it may see. A ReportEvent
	// of ReportGap comes first where some in between are no longer kept, and an
	// event without a type now and then, to find readers that are gone.
	Reports(ctx context.Context, c Caller, after *uint64, send func(ReportEvent) error) error
	// Task tells how a task stands. A task that is not there and one
	// that the caller may not see are the same UnknownTask error.
	Task(ctx context.Context, c Caller, taskID string) (TaskStatus, error)
	// Watch calls send for what happened to the task's jobs so far in short (at
	// least their present stage), then for each event as it comes, and returns nil
	// when all jobs have ended, the context's error, or the error of send. send is
	// called on the goroutine of Watch. Unknown tasks as in Task, before any event.
	Watch(ctx context.Context, c Caller, taskID string, send func(Event) error) error
	// Info is about the agent as a whole.
	Info(ctx context.Context, c Caller) (Info, error)
	// Instances lists the instances that the caller may see, sorted by id.
	Instances(ctx context.Context, c Caller) ([]InstanceInfo, error)
	// Jobs lists the jobs that the caller may see and the filter lets through, newest first,
	// at most f.Limit of them. next is f.Before for the jobs that follow; 0 when none do.
	Jobs(ctx context.Context, c Caller, f JobFilter) (list []JobInfo, next uint64, err error)
	// Cancel undoes those jobs of a task that are not past their commit point;
	// each instance is left running. A job that was cancelled before is no error; where no
	// job of the task can be cancelled, the refusal says of each why.
	Cancel(ctx context.Context, c Caller, taskID string) error
	// Release powers down an instance that is held with a backup
	// reported and acknowledged. Done twice is no error.
	Release(ctx context.Context, c Caller, instanceID string) error
	// Resume lets an instance that is held run again; its backup stays. Done twice is no error.
	Resume(ctx context.Context, c Caller, instanceID string) error
	// Drain stops taking commands; what runs is finished. It returns
	// at once; Info tells when it is done.
	Drain(ctx context.Context, c Caller) error
}

// TaskAnswer is the answer to an accepted command.
type TaskAnswer struct {
	TaskID string   `json:"task_id"`
	Jobs   []JobRef `json:"cmd_jobs"`
}

// JobRef names the job of one instance of a task.
type JobRef struct {
	InstanceID string `json:"instance_id"`
	JobID      string `json:"job_id"`
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

// Leftover is a snapshot that nothing needs, or a replaced volume
// of a restore, that could not be removed. The agent tries again.
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

// JobInfo is one job, with all that operators want to see of it.
// Times are UTC, zero where not reached.
type JobInfo struct {
	JobID        string    `json:"job_id"`
	TaskID       string    `json:"task_id"`
	InstanceID   string    `json:"instance_id"`
	Tenant       string    `json:"tenant"`
	Kind         string    `json:"kind"`  // backup, restore
	Stage        string    `json:"stage"` // of the state machine
	Status       int       `json:"status"`
	ErrorCode    string    `json:"error_code,omitempty"`
	ErrorMsg     string    `json:"error_msg,omitempty"`
	Message      string    `json:"message,omitempty"`
	Trouble      *Trouble  `json:"trouble,omitempty"` // what fails now of a job that has not ended
	BackupID     string    `json:"backup_id,omitempty"`
	Created      time.Time `json:"created"`
	Updated      time.Time `json:"updated"`
	Ended        time.Time `json:"ended,omitzero"`
	FrozenSince  time.Time `json:"frozen_since,omitzero"`
	Acknowledged bool      `json:"acknowledged"` // its report
	Progress     Progress  `json:"progress"`
}

// Progress is how far a job is.
type Progress struct {
	Files     uint64 `json:"files"`
	BytesRead uint64 `json:"bytes_read"`
	BytesNew  uint64 `json:"bytes_new"`  // not found in the vault
	BytesSent uint64 `json:"bytes_sent"` // compressed and sealed
	// Of a restore, whose other figures but Files are 0; Files are entries of any sort.
	BytesRestored uint64 `json:"bytes_restored,omitempty"`
	BytesTotal    uint64 `json:"bytes_total,omitempty"`
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
	Time       time.Time `json:"time"` // UTC
	Type       string    `json:"type"`
	TaskID     string    `json:"task_id"`
	JobID      string    `json:"job_id,omitempty"`
	InstanceID string    `json:"instance_id,omitempty"`
	Stage      string    `json:"stage,omitempty"`
	Status     int       `json:"status,omitempty"`
	ErrorCode  string    `json:"error_code,omitempty"`
	ErrorMsg   string    `json:"error_msg,omitempty"`
	Message    string    `json:"message,omitempty"`
	BackupID   string    `json:"backup_id,omitempty"`
	Progress   *Progress `json:"progress,omitempty"`
}
