// Package janitor lets the vaults of a host's tenants shrink: it forgets the backups that no rule
// of retention keeps, and prunes. It works when the control plane or an operator commands it, when
// it is the turn of its host, or as the one janitor of all hosts.
//
// Package agent makes a Janitor, fulfils Host, and calls Run. Run has one goroutine for
// one run at a time, and one more that looks whether the run has to end. Runs are
// written to a file before they are answered, begun and told, so a crash loses none: a
// run that was at work begins again, and finds the marks and the fewer objects that it
// left. Safety rests on internal/vault alone: two hosts that prune one vault at once,
// or a host that prunes in the turn of another one, only work twice.
package janitor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/hostid"
	"holdfast/internal/retention"
	"holdfast/internal/vault"
)

// Mode says when vaults are pruned.
type Mode string

// The modes.
const (
	ModeCommand Mode = "command" // when it is commanded
	ModeElected Mode = "elected" // and when it is the turn of this host
	ModeHere    Mode = "here"    // and when the vault is due, on this host
)

// Bounds, each with its reason.
const (
	// keepRuns is how many runs stay in the file: the runs of years, or the commands of weeks.
	keepRuns = 200
	// maxWaiting bounds the runs that wait: as many tenants as one host serves.
	maxWaiting = 100
	// runTime bounds one run: a vault of 50 TB takes hours.
	runTime = 24 * time.Hour
	// lookAtMost is the longest time between two looks at a vault whether it is due.
	lookAtMost = time.Hour
	// retryFirst is the time after a scheduled run that failed, and doubles up to retryMost.
	retryFirst, retryMost = time.Hour, 24 * time.Hour
	// seenLately is within which time a host has to
	// have left a look in the vault to take its turn.
	seenLately = time.Hour
	// stepMost and stepLeast bound the time after which the next host takes the turn of a host.
	stepLeast, stepMost = 10 * time.Minute, 6 * time.Hour
	// steps is how many hosts take their turns within a period.
	steps = 28
	// workPoll is how often the janitor looks whether the jobs of the host have ended.
	workPoll = 5 * time.Second
	// haltPoll is how often it looks whether the run has to end.
	haltPoll = time.Second
)

// Host is the agent as the janitor sees it. All methods may be called from any goroutine.
type Host interface {
	// Open opens the vault of a tenant for one run or look, of which the caller calls end.
	// vault.ErrNoVault where the tenant has none.
	Open(ctx context.Context, tenant string) (v *vault.Vault, end func(), err error)
	// Needs returns, by instance/id, for what this host needs backups of the tenant.
	Needs(tenant string) (map[string]string, error)
	// AtWork names a job of this host for which a prune of the tenant's vault would wait, for
	// people; "" where there is none.
	AtWork(tenant string) string
	// Halted is why nothing may be done now: the host drains, or stands still. Nil: it may.
	Halted() error
	// Tell journals an event about a run, which reaches the control plane at least once.
	Tell(kind string, r Run) error
	// Changed is told each change of a run, for logs and metrics. The run is a copy.
	Changed(r Run)
	// Warn is told of faults that do not end a run.
	Warn(tenant string, err error)
}

// The events of a run.
const (
	EventCompleted = "holdfast.prune.completed"
	EventFailed    = "holdfast.prune.failed"
)

// Options of a Janitor.
type Options struct {
	Host     string          // id of the host
	Identity hostid.Identity // of its state folder
	Mode     Mode
	Tenants  []string // whose vaults this host prunes by itself, each once
	// Policy returns the rules of an instance; an empty policy keeps all backups.
	Policy func(tenant, instance string) retention.Policy
	Every  time.Duration // between two runs of a vault
	Grace  time.Duration // see vault.PruneOptions
	Wait   time.Duration // for jobs of this host, and as long again for other hosts
	// MaxShare is the percentage of backups that one run may forget, and MaxGarbage the percentage
	// of a vault's bytes that may be garbage.
	MaxShare, MaxGarbage float64
	Sparse               float64       // see vault.PruneOptions
	ProlongLocks         bool          // see vault.PruneOptions
	IndexDir             string        // see vault.WriterOptions
	File                 string        // where the runs are kept
	Poll                 time.Duration // see vault.PruneOptions
}

// State is the state of a run.
type State string

// The states of a run.
const (
	Waiting   State = "waiting"
	AtWork    State = "at_work"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Over tells whether the run has ended.
func (s State) Over() bool { return s == Done || s == Failed || s == Cancelled }

// Problem is why a run failed, in one word.
type Problem string

// The problems.
const (
	ProblemNone   Problem = ""
	ProblemShare  Problem = "share"          // the rules would forget too much: a person has to look
	ProblemDelete Problem = "may_not_delete" // the credentials may not delete
	ProblemClock  Problem = "clock"          // the clocks of host and store differ
	ProblemWaits  Problem = "waits"          // work of other processes did not end in time
	ProblemLost   Problem = "packs_missing"  // backups name packs that the store does not have
	ProblemOther  Problem = "failed"         // anything else, which Run.Reason tells
)

// bySchedule is Request.By of a run that nobody commands.
const bySchedule = "the schedule"

// Command says how a run is made.
type Command struct {
	DryRun      bool `json:"dry_run,omitempty"`      // count, and change nothing
	KeepAll     bool `json:"keep_all,omitempty"`     // forget nothing, and only prune
	AcceptShare bool `json:"accept_share,omitempty"` // forget more than the share all the same
}

// Request is a command for a run.
type Request struct {
	Tenant string
	ID     string   // the same id of the same caller is the same command
	Caller string   // the tenant to which the caller is bound; "" for callers of all tenants
	By     string   // who commands it, for people
	Digest [32]byte // of the command
	Command
}

// Run is one run. Times are UTC, by the clock of the host, for people.
type Run struct {
	ID      string `json:"id"`
	Tenant  string `json:"tenant"`
	Request string `json:"request,omitempty"`
	Caller  string `json:"caller,omitempty"`
	Digest  string `json:"digest,omitempty"` // hex
	By      string `json:"by"`
	Command
	State    State     `json:"state"`
	Accepted time.Time `json:"accepted"`
	Began    time.Time `json:"began,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Begun    int       `json:"begun,omitempty"` // how often it began: again after each stop of the agent
	Step     string    `json:"step,omitempty"`  // in words
	Problem  Problem   `json:"problem,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it failed, or for what it waits
	// Before is the record of the last prune that ended when this run began; see Run.settled.
	Before string `json:"before,omitempty"`
	// Settled says that a later run of any host succeeded, so that nobody has to act.
	Settled bool `json:"settled,omitempty"`
	// Told says that the end of the run is in the outbox, or that nobody is to be told.
	Told   bool `json:"told,omitempty"`
	Report Report
}

// Scheduled tells whether nobody commanded the run.
func (r Run) Scheduled() bool { return r.Request == "" }

// Report counts the work of a run so far.
type Report struct {
	Backups   int `json:"backups"`      // not forgotten, that the rules judged
	Forget    int `json:"forget"`       // that no rule keeps
	Forgotten int `json:"forgotten"`    // of these, that are marked
	Needed    int `json:"needed"`       // of these, that this host or a claim needs after all
	Odd       int `json:"odd"`          // whose time can't be right, and which stay for that
	Back      int `json:"brought_back"` // that were forgotten before and are needed now
	// Share says, of a dry run, that a run would forget more than the share and stop.
	Share string `json:"share,omitempty"`
	// OddBackups are some of the odd backups, for people.
	OddBackups []string `json:"odd_backups,omitempty"`
	// Waits names the work of other processes that the prune waits for, or gave up waiting for.
	Waits []string          `json:"waits,omitempty"`
	Prune vault.PruneReport `json:"prune"`
}

// Trouble is a vault for which a human must act.
type Trouble struct {
	Tenant  string
	Problem Problem
	Reason  string
	Since   time.Time
}

// Errors by which a caller decides.
var (
	// ErrReused says that the request id was used before for another command.
	ErrReused = errors.New("request id was used before with another body")
	// ErrFull says that as many runs wait as may.
	ErrFull = errors.New("too many prunes wait on this host")
	// ErrNoRun says that there is no such run.
	ErrNoRun = errors.New("no such prune")
	// ErrOver says that the run has ended.
	ErrOver = errors.New("the prune has ended")
)

// Janitor prunes vaults. Its methods may be called from any goroutine.
type Janitor struct {
	host Host
	o    Options

	mu      sync.Mutex
	runs    []*Run // the oldest first
	cancel  func(error)
	current *Run // at work
	wake    chan struct{}
	tenants map[string]*due // of the schedule; for the goroutine of Run alone
	last    map[string]vault.RunRecord
}

// New reads the runs of earlier lives. A file that can't be read is set aside, and
// aside tells why: then only the history and commands that were not begun are lost.
func New(host Host, o Options) (j *Janitor, aside error, err error) { //nolint:revive // aside is no failure of New
	j = &Janitor{host: host, o: o, wake: make(chan struct{}, 1), tenants: map[string]*due{}, last: map[string]vault.RunRecord{}}
	j.runs, aside, err = readRuns(o.File)
	return j, aside, err
}

// Accept takes a command, and returns its run once that is in the file. The same command gives the
// same run.
func (j *Janitor) Accept(q Request) (Run, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	digest := hex.EncodeToString(q.Digest[:])
	waiting := 0
	for _, r := range j.runs {
		if q.ID != "" && r.Request == q.ID && r.Caller == q.Caller {
			if r.Digest != digest {
				return Run{}, fmt.Errorf("request id %q: %w", q.ID, ErrReused)
			}
			return r.copy(), nil
		}
		if !r.State.Over() {
			waiting++
		}
	}
	if err := j.host.Halted(); err != nil {
		return Run{}, err
	}
	if waiting >= maxWaiting {
		return Run{}, ErrFull
	}
	r := &Run{
		ID: newID(), Tenant: q.Tenant, Request: q.ID, Caller: q.Caller, By: q.By, Command: q.Command, State: Waiting, Accepted: time.Now().UTC(),
	}
	if q.ID != "" {
		r.Digest = digest
	}
	if err := j.put(append(slices.Clone(j.runs), r)); err != nil {
		return Run{}, err
	}
	j.wakeUp()
	return r.copy(), nil
}

// newID is the id of a run.
func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return runPrefix + hex.EncodeToString(b[:])
}

const runPrefix = "prune-"

// IsRun tells whether an id has the form of the id of a run.
func IsRun(id string) bool { return strings.HasPrefix(id, runPrefix) }

// Find returns a run. ErrNoRun.
func (j *Janitor) Find(id string) (Run, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r := j.find(id); r != nil {
		return r.copy(), nil
	}
	return Run{}, fmt.Errorf("%w: %s", ErrNoRun, id)
}

func (j *Janitor) find(id string) *Run {
	for _, r := range j.runs {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// Runs returns the runs of a tenant, or of all with "", the newest first.
func (j *Janitor) Runs(tenant string) (list []Run) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range slices.Backward(j.runs) {
		if tenant == "" || r.Tenant == tenant {
			list = append(list, r.copy())
		}
	}
	return list
}

// Tenants returns the tenants whose vaults this host prunes, or has pruned, in order.
func (j *Janitor) Tenants() []string {
	all := slices.Clone(j.o.Tenants)
	j.mu.Lock()
	for _, r := range j.runs {
		all = append(all, r.Tenant)
	}
	j.mu.Unlock()
	slices.Sort(all)
	return slices.Compact(all)
}

// Last returns the record of the last prune of the tenant's vault that any host ended, as far as
// this host has looked; false where it knows of none.
func (j *Janitor) Last(tenant string) (vault.RunRecord, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, known := j.last[tenant]
	return r, known
}

// Cancel ends a run, and returns when that is asked. ErrNoRun, ErrOver.
func (j *Janitor) Cancel(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.find(id)
	switch {
	case r == nil:
		return fmt.Errorf("%w: %s", ErrNoRun, id)
	case r.State.Over():
		return fmt.Errorf("%w: %s", ErrOver, id)
	case r == j.current:
		j.cancel(errCancelled)
		return nil
	}
	err := j.change(r, func(r *Run) {
		r.State, r.Reason, r.Ended = Cancelled, errCancelled.Error(), time.Now().UTC()
	})
	j.wakeUp()
	return err
}

var errCancelled = errors.New("the prune was cancelled")

// Troubles returns the vaults for which a human must act: the last run of each that was no dry run
// has failed.
func (j *Janitor) Troubles() (all []Trouble) {
	j.mu.Lock()
	defer j.mu.Unlock()
	seen := map[string]bool{}
	for _, r := range slices.Backward(j.runs) {
		if r.DryRun || !r.State.Over() || r.State == Cancelled || seen[r.Tenant] {
			continue
		}
		seen[r.Tenant] = true
		if r.State == Failed && !r.Settled {
			all = append(all, Trouble{Tenant: r.Tenant, Problem: r.Problem, Reason: r.Reason, Since: r.Ended})
		}
	}
	return all
}

func (j *Janitor) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// copy is a run that shares nothing with r.
func (r *Run) copy() Run {
	c := *r
	c.Report.OddBackups, c.Report.Waits = slices.Clone(r.Report.OddBackups), slices.Clone(r.Report.Waits)
	c.Report.Prune = clonePrune(r.Report.Prune)
	return c
}
