// Package service does what each call of agent/api asks for: it finds the instances that a caller
// may see, checks a command as a whole, has agent/job accept the command, and says for people how
// jobs stand, as far as the caller may know. It never acts on an instance, a snapshot or a vault
// itself, but for claims that an operator takes over.
//
// New gets every part that a call needs. Callers that do not see all tenants read no name of a part
// of the host (words.go). ANSWERS.md of agent has the answers.
package service

import (
	"context"
	"log/slog"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/engine"
	"holdfast/agent/janitor"
	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/agent/observe"
)

// Records are the records of the journal that calls read.
type Records interface {
	Active() ([]*model.Job, error)
	AcceptedLoss(instance string) (model.AcceptedLoss, error)
	Busy(instances ...string) error
	ByInstance(instance string) (active, latest *model.Job, err error)
	Content(instance string) (model.Content, error)
	Ended(instance string) (*model.Job, error)
	Job(id string) (*model.Job, error)
	List(journal.Query) (jobs []*model.Job, next uint64, err error)
	PendingReports() (int, error)
	Recent(after uint64, limit int) (events []journal.Recent, oldest, newest uint64, err error)
	RefusedReports() (int, error)
	Task(id string) (*model.Task, []*model.Job, error)
}

// Jobs are the calls of a job.Manager that the calls of the API make.
type Jobs interface {
	// Commands.
	Known(job.Request) (*model.Task, error)
	Accept(job.Request) (*model.Task, error)
	Cancel(jobID string) error
	Release(instance string) error
	Resume(instance string) error
	Abandon(instance string) (*model.Job, error)
	AcceptLoss(instance, tenant string, a model.AcceptedLoss) error
	AcceptFork(ctx context.Context, instance, backup, by string, again bool) error
	PutBack(instance, jobID string) (*model.Task, error)
	RemoveKept(instance, jobID string) error
	RetryRefused(seq uint64) error
	DropRefused(seq uint64) error
	GiveUp(seq uint64) error
	Drain()
	// Questions.
	Draining() bool
	Counts() (active, queued int)
	Ahead(jobID string) int
	Watch(task string) (updates <-chan job.Update, stop func())
	Progress(jobID string) (model.Progress, bool)
	Leftovers() ([]model.Leftover, error)
	Refused() ([]model.Refused, error)
	Waiting() ([]model.Event, error)
	Kept() ([]model.Aside, error)
	KeptFor(*model.Aside) (age time.Duration, over bool)
}

// Options are the parts that calls ask and tell.
type Options struct {
	Log      *slog.Logger
	Config   *config.Config // for its keys below prepare, and for the names that tenants must not read
	Self     engine.Self
	Started  time.Time
	Store    string // the name of the store
	Journal  Records
	Jobs     Jobs
	Engine   *engine.Engine
	Lookout  *observe.Lookout
	Throttle *Throttle
	// WhyWaits is observe.Watcher.WhyWaits.
	WhyWaits func(instance string) string
	Janitor  *janitor.Janitor
	// Recovers says that this start of the agent takes no commands, but recovers the host.
	Recovers bool
}

// service is the agent as agent/api sees it.
type service struct {
	log       *slog.Logger
	self      engine.Self
	started   time.Time
	store     string
	prepared  config.Prepare
	journal   Records
	jobs      Jobs
	instances *engine.Instances
	volumes   *engine.Volumes
	views     *engine.VolumeViews
	vaults    *engine.Vaults
	losses    *engine.Losses
	claims    *engine.Claims
	lookout   *observe.Lookout
	throttle  *Throttle
	whyWaits  func(instance string) string
	words     *tenantWords
	janitor   *janitor.Janitor
	retention string // retention.run of the configuration
	recovers  bool
}

// New makes the service, for any goroutine.
func New(o Options) api.Service {
	e := o.Engine
	return &service{
		log: o.Log, self: o.Self, started: o.Started, store: o.Store, prepared: o.Config.Prepare, journal: o.Journal, jobs: o.Jobs,
		instances: e.Instances, volumes: e.Volumes, views: e.Views, vaults: e.Vaults, losses: e.Losses, claims: e.Claims,
		lookout: o.Lookout, throttle: o.Throttle, whyWaits: o.WhyWaits, words: newTenantWords(o.Config),
		janitor: o.Janitor, retention: o.Config.Retention.Run, recovers: o.Recovers,
	}
}
