package job

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// Bounds that the configuration does not set, each with its reason.
const (
	// DefaultKeepFor is how long a finished task can be asked for: long enough for a control plane
	// that repeats a request after a long outage.
	DefaultKeepFor = 30 * 24 * time.Hour
	// DefaultKeepJobs and DefaultKeepBytes bound the journal on a busy
	// host: a list of all these jobs, and the check of the whole file
	// at a start, take well below a second, and some 100 MB of memory.
	DefaultKeepJobs  = 20_000
	DefaultKeepBytes = 32 << 20
	// DefaultKeepAside lets people notice on Monday that a prepare replaced something on Friday.
	DefaultKeepAside = 72 * time.Hour
	// pruneEvery spaces the looks for tasks to forget.
	pruneEvery = 10 * time.Second
	// maxFruitless is how often a job is put off, one time after the other
	// and with nothing new stored in between, before it fails: its instance
	// is held each time, and a host that goes down this often needs a person.
	maxFruitless = 5
	// actTimeout bounds one act on the way back. Drivers have their own, shorter ones.
	actTimeout = 2 * time.Minute
	// firstPause and lastPause are the back-off between tries of an act that must succeed (thaw,
	// removal of a snapshot, power-down): soon at first, never rare enough to be forgotten.
	firstPause = time.Second
	lastPause  = time.Minute
	// watchEvery spaces what watchers of a task are told about the progress of one job.
	watchEvery = time.Second
)

// Options are the settings of a Manager. Zero durations mean no limit, except where said.
type Options struct {
	Jobs  int // at once; at least 1
	Queue int // jobs that may wait; 0: no limit
	// instances that are held at once for work that can still fail; 0: no limit
	Held           int
	Precopy        Precopy       // bounds of the rounds before an instance is held
	FrozenDeadline time.Duration // from freezing to stored
	// of a verification that still counts at the power-down; an older one is made anew
	ProofAge    time.Duration
	JobDeadline time.Duration // from acceptance to stored, the queue included
	// StorePatience is how long the store may give no answer before an instance
	// that stands still for an upload is let go until it does; 0: for ever.
	StorePatience time.Duration
	// that Run gives running jobs after its context ended, beside LetGoTime; 0: none
	DrainTimeout time.Duration
	KeepFor      time.Duration // finished tasks; 0: DefaultKeepFor
	KeepJobs     int           // jobs of finished tasks; 0: DefaultKeepJobs
	KeepBytes    int64         // of the records of finished tasks; 0: DefaultKeepBytes
	Now          func() time.Time
	Rand         io.Reader // for ids
	BootID       string    // of the host; differs after a reboot
	// Uptime is how long this boot of the host has lasted (CLOCK_BOOTTIME); nil counts from New on.
	Uptime func() time.Duration
	// ProgressEvery spaces the progress reports of one job; 0: there are none.
	ProgressEvery time.Duration
	Bases         Bases
	// RecoverOnly makes a Run that takes no commands and begins no work.
	// Jobs at work are put off, jobs on the way back are undone, and jobs
	// with a stored backup go on. Run returns when all others are over.
	RecoverOnly bool
	// OnFork says what becomes of a fork of which nobody has decided; "" is ForkHold.
	OnFork OnFork
	// StartRestored starts instances after their volumes were restored.
	StartRestored bool
	// KeepAside is for how long replaced content is kept, by the journal's clock; 0:
	// DefaultKeepAside.
	KeepAside time.Duration
	// InPlaceOrder removes volumes that a backup holds for certain before their restore, where
	// there is not enough room for both.
	InPlaceOrder bool
	// Hook is called at each crash point beside crashpoint.Hit. Tests use it; nil elsewhere.
	Hook func(point string)
}

// Precopy bounds the rounds that store an instance while it runs. Another round follows
// while the last one had more than Enough to read, and clearly less than the one before.
type Precopy struct {
	Rounds int           // at most; 0: none
	Enough uint64        // bytes; what may be left for the hold
	Time   time.Duration // of all rounds together; 0: no limit. A round that has begun is finished
	Bytes  uint64        // read by all rounds together; 0: no limit
}

// Bases are the rules for bases.
type Bases struct {
	Keep    bool          // without it, no base is kept, and the existing bases go
	MaxAge  time.Duration // 0: no limit
	MinFree float64       // share of the space that must be free where a base lies, 0 to 1
}

// OnFork says what becomes of a fork of which nobody has decided.
type OnFork string

// The ways to treat a fork.
const (
	ForkHold    OnFork = "hold"    // the release waits for a decision
	ForkRelease OnFork = "release" // the backup of this host is accepted, and the release follows
)

// Why a running step is interrupted.
var (
	errCancelled      = errors.New("cancelled on request")
	errDrained        = errors.New("the agent is shutting down")
	errFrozenDeadline = errors.New("the instance was frozen for as long as the configuration allows")
	errJobDeadline    = errors.New("the job took as long as the configuration allows")
)

// Manager runs the jobs of a journal. Its methods may be called from any goroutine, before, during
// and after Run; jobs advance only during Run.
type Manager struct {
	journal *journal.Journal
	parts   Parts
	opts    Options
	slots   *slots
	holds   *slots // turns to hold an instance

	mu       sync.Mutex
	draining bool
	pruned   bool               // the journal was pruned in this life
	prunedUp time.Duration      // when, by the journal's clock
	waiting  []*model.Job       // accepted, not yet given a goroutine
	running  map[string]*worker // by job id
	watchers map[chan Update]string
	// strayKept is the answer of StrayKept.
	strayKept []string

	spawn  chan struct{} // 1 token: waiting has grown
	outbox chan struct{} // 1 token: the outbox or the progress of a job has changed
}

// New returns a Manager over an open journal, which stays the caller's.
func New(jr *journal.Journal, parts Parts, opts Options) *Manager {
	if opts.KeepFor == 0 {
		opts.KeepFor = DefaultKeepFor
	}
	if opts.KeepJobs == 0 {
		opts.KeepJobs = DefaultKeepJobs
	}
	if opts.KeepBytes == 0 {
		opts.KeepBytes = DefaultKeepBytes
	}
	if opts.KeepAside == 0 {
		opts.KeepAside = DefaultKeepAside
	}
	if opts.Hook == nil {
		opts.Hook = func(string) {}
	}
	if opts.Held <= 0 {
		opts.Held = math.MaxInt
	}
	jr.SetClock(opts.BootID, opts.Uptime)
	return &Manager{
		journal: jr, parts: parts, opts: opts, slots: newSlots(opts.Jobs), holds: newSlots(opts.Held),
		running: map[string]*worker{}, watchers: map[chan Update]string{},
		spawn: make(chan struct{}, 1), outbox: make(chan struct{}, 1),
	}
}

func (m *Manager) hit(point string) {
	crashpoint.Hit(point)
	m.opts.Hook(point)
}

func (m *Manager) newID() (string, error) {
	var b [10]byte
	if _, err := io.ReadFull(m.opts.Rand, b[:]); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Drain stops taking commands. Jobs that were accepted go on.
func (m *Manager) Drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
}

// Draining tells whether commands are refused.
func (m *Manager) Draining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draining
}

// contained runs do, tells of a panic in it, and whether there was none.
func (m *Manager) contained(doing string, do func()) bool {
	err := contain.Call(func() error { do(); return nil })
	if err != nil {
		m.parts.Observer.Trouble("", "", doing, err)
	}
	return err == nil
}

// place says where a job stands in the line. The last backup tells the size of its instance; an
// instance without a backup has unknownSize.
func (m *Manager) place(j *model.Job) place {
	p := place{restore: j.IsRestore(), command: j.Task, deadline: j.Deadline, bytes: unknownSize, seq: j.Seq}
	if _, latest, err := m.journal.ByInstance(j.Instance); err == nil && latest != nil && latest.Result != nil {
		p.bytes = latest.Result.Bytes
	}
	return p
}

// prune forgets old tasks. Jobs that end one after the other have it
// done once in pruneEvery: a look costs more than the end of a job.
func (m *Manager) prune() error {
	up := m.journal.Up()
	m.mu.Lock()
	soon := m.pruned && up-m.prunedUp < pruneEvery
	if !soon {
		m.pruned, m.prunedUp = true, up
	}
	m.mu.Unlock()
	if soon {
		return nil
	}
	_, err := m.journal.Prune(m.journal.Up()-m.opts.KeepFor, m.opts.KeepJobs, m.opts.KeepBytes)
	return err
}

// Counts tells how many jobs work or wait for the control plane, and how many wait for their turn.
func (m *Manager) Counts() (active, queued int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	queued = m.slots.waiting() + len(m.waiting)
	return max(0, len(m.running)-m.slots.waiting()), queued
}
