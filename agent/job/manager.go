package job

import (
	"cmp"
	"context"
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

// Request is one command.
type Request struct {
	Kind      model.Kind // "" is KindBackup
	ID        string
	Digest    [32]byte // of the body
	Tenant    string   // whose the command is
	Instances []string // known, without duplicates
	Backup    string   // of a restore: id of the backup; "" is the newest
	// Deadline is when the host is needed; zero when there is no haste. Jobs with
	// one go first, and give up compression and then depth of verification for
	// speed. A job that is late goes on: what ends it is Options.JobDeadline.
	Deadline time.Time
	PutBack  string // as in Job
}

// Known returns the task of a request seen before, nil when it is new, or ErrRequestReused.
func (m *Manager) Known(r Request) (*model.Task, error) {
	return m.journal.Request(r.Tenant, r.ID, r.Digest)
}

// Accept journals the command and queues its jobs; it returns when that is durable. A request seen
// before gets its first task. Else the error is ErrRequestReused, ErrDraining, ErrQueueFull, a
// *BusyError, ErrNotFound for an unknown instance, or a failure of the journal.
func (m *Manager) Accept(r Request) (*model.Task, error) {
	if t, err := m.Known(r); t != nil || err != nil {
		return t, err
	}
	kind := cmp.Or(r.Kind, model.KindBackup)
	now := m.opts.Now().UTC()
	task := model.Task{RequestID: r.ID, Digest: r.Digest, Tenant: r.Tenant, Accepted: now}
	var err error
	if task.ID, err = m.newID(); err != nil {
		return nil, err
	}
	jobs := make([]model.Job, len(r.Instances))
	for i, name := range r.Instances {
		instance, err := m.parts.Instance(name)
		if err != nil {
			return nil, fmt.Errorf("instance %q: %w", name, err)
		}
		jobs[i] = model.Job{
			Task: task.ID, Instance: name, Tenant: instance.Tenant, Kind: kind, Policy: instance.Policy, Mode: instance.Mode, Kept: instance.Keep, PutBack: r.PutBack,
			Deadline: r.Deadline.UTC(), Chosen: r.Backup, State: model.Accepted, AcceptedAt: now, Entered: map[model.State]time.Time{model.Accepted: now},
		}
		if jobs[i].ID, err = m.newID(); err != nil {
			return nil, err
		}
		task.Jobs = append(task.Jobs, model.JobRef{Instance: name, Job: jobs[i].ID})
	}

	// One lock from the check to the queue, so that the
	// limit holds and the queue has the journal's order.
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return nil, ErrDraining
	}
	if m.opts.Queue > 0 && len(m.waiting)+m.slots.waiting()+len(jobs)-m.slots.idle() > m.opts.Queue {
		return nil, model.ErrQueueFull
	}
	m.hit(crashpoint.WriteTask + crashpoint.Before)
	got, made, err := m.journal.Accept(task, jobs)
	if err != nil {
		return nil, err
	}
	m.hit(crashpoint.WriteTask + crashpoint.After)
	if !made {
		return got, nil
	}
	for i := range jobs {
		m.waiting = append(m.waiting, &jobs[i])
		m.parts.Observer.Changed(&jobs[i], "")
	}
	wake(m.spawn)
	return got, nil
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

// Run takes up the jobs of the journal, calls ready once the state of every unfinished
// job was compared with the host, and advances jobs until ctx ends. Then it takes no
// more commands; waiting jobs stay in the journal, jobs at work have DrainTimeout to
// reach a stored backup and are put off after it (thawed, snapshots dropped, first in
// the queue of the next Run), and instances whose backup is stored stay frozen for the
// next Run to go on with. It returns when no goroutine of it is left.
func (m *Manager) Run(ctx context.Context, ready func()) error {
	ctx, recovered := context.WithCancel(ctx)
	defer recovered()
	hard, beginStop, release := withStop(ctx, m.opts.DrainTimeout)
	defer release()
	if m.opts.RecoverOnly {
		m.Drain()
	}
	if err := m.journal.Tick(); err != nil {
		return err
	}
	if err := m.prune(); err != nil {
		return err
	}
	if err := m.adopt(); err != nil {
		return err
	}
	m.mu.Lock() // so that no command is accepted between the two
	jobs, err := m.journal.Active()
	m.waiting = nil // all of them are in the journal
	m.mu.Unlock()
	if err != nil {
		return err
	}
	// A panic here must not keep the agent from its jobs, now and at every start after this one.
	defer m.tidy(ctx, jobs)()

	var workers, checked, atWork sync.WaitGroup
	workers.Go(func() {
		for !m.contained("look after base snapshots", func() { m.watchBases(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	workers.Go(func() {
		for !m.contained("remove leftovers", func() { m.watchLeftovers(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	workers.Go(func() {
		if m.opts.RecoverOnly {
			return
		}
		for !m.contained("look after kept content", func() { m.watchAside(ctx) }) && sleep(ctx, lastPause) == nil {
		}
	})
	begin := func(j *model.Job, resumed bool) {
		id, place := j.ID, m.place(j)
		w := &worker{
			m: m, id: id, place: place, signal: make(chan struct{}, 1), ticket: m.slots.join(place), resumed: resumed, checked: func() {},
		}
		if resumed {
			checked.Add(1)
			w.checked = sync.OnceFunc(checked.Done)
		}
		m.mu.Lock()
		m.running[id] = w
		m.mu.Unlock()
		atWork.Add(1)
		workers.Go(func() {
			defer atWork.Done()
			defer func() {
				w.checked()
				w.ticket.leave()
				w.hold.leave()
				m.mu.Lock()
				delete(m.running, id)
				m.mu.Unlock()
			}()
			m.contained("run a job", func() { w.run(ctx, hard) })
		})
	}
	// Jobs that hold an instance go before jobs that wait for their turn.
	for _, holding := range []bool{true, false} {
		for _, j := range jobs {
			if (j.State != model.Accepted) == holding && j.State != model.Unknown {
				begin(j, true)
			}
		}
	}
	checked.Wait()
	ready()
	if m.opts.RecoverOnly {
		workers.Go(func() {
			m.contained("wait for the end of all jobs", atWork.Wait)
			recovered()
		})
	}
	for ctx.Err() == nil {
		m.mu.Lock()
		accepted := m.waiting
		m.waiting = nil
		m.mu.Unlock()
		for _, j := range accepted {
			begin(j, false)
		}
		select {
		case <-m.spawn:
		case <-ctx.Done():
		}
	}

	m.Drain()
	beginStop()
	workers.Wait()
	return nil
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
