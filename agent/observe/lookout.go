package observe

import (
	"context"
	"log/slog"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// Records are the records of the journal that a Lookout reads.
type Records interface {
	Active() ([]*model.Job, error)
	Unknown() ([]journal.UnknownRecord, error)
	Refused() ([]model.Refused, error)
	Heads(limit int, skip func(instance string) bool) ([]model.Event, error)
	// Path is where the journal lies.
	Path() string
}

// Jobs are the facts about all jobs together that a Lookout asks for.
type Jobs interface {
	Full() bool
	HoldTurns() (waiting int, granted uint64)
	Leftovers() ([]model.Leftover, error)
}

// Sources are the facts that a Lookout puts together. Its functions are called from any goroutine.
type Sources struct {
	Log     *slog.Logger
	Watcher *Watcher
	Journal Records
	Writes  *JournalHealth
	Jobs    Jobs
	// Queue and Held are limits.queue and limits.held of the configuration.
	Queue, Held int
	// StateDir has the notes of held instances. Beside AuditFile lies
	// an audit log that was set aside.
	StateDir, AuditFile string
	// Configured tells whether the configuration has an instance.
	Configured func(instance string) bool
	// Changed names the settings that an unfinished job does not follow; nil where there are none.
	Changed func(*model.Job) error
	// Parts finds the troubles of the other parts of the agent. It waits for no disk.
	Parts func() []Sighting
	// Disks finds the troubles that only the disks tell. It returns early when its context ends.
	Disks func(context.Context) []Sighting
	// Hasty tells that troubles are shown at once; for tests.
	Hasty func() bool
}

// Lookout finds all states in which a human must act. It is for any goroutine.
type Lookout struct {
	Sources
	seen    seen
	watched watched
}

// NewLookout makes a lookout, which has looked at no disk yet; see WatchDisks.
func NewLookout(s Sources) *Lookout { return &Lookout{Sources: s} }
