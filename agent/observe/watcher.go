package observe

import (
	"log/slog"
	"sync"
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// Watcher turns each change of a job into log lines and metrics, and knows what fails. It is the
// job.Observer, and calls nothing of the manager's. Its methods may be called from any goroutine.
type Watcher struct {
	log       *slog.Logger
	metrics   *metrics.Metrics
	inhibitor *inhibitor
	claims    chan struct{} // 1 token: an instance was released, or its restore failed

	mu      sync.Mutex
	active  map[string]bool           // jobs counted as working
	frozen  map[string]bool           // jobs counted as holding their instance
	counted map[string]model.Progress // bytes of a job that are in the counters

	stays   map[string]stay    // of the unfinished jobs, by id
	failing map[string]failure // what fails now, by job
	reports reporting
	lines   map[string]failure // reports that are not delivered, by instance
	faults  map[string]failure // of parts of the agent, by the name of the trouble
	appends bool               // the store refused a delete to this host
	brake   string             // why rounds of pre-copy are slowed down; "" when they are not
}

// NewWatcher makes a Watcher that knows of no job. inhibit may be nil,
// where nothing keeps the host up.
func NewWatcher(log *slog.Logger, m *metrics.Metrics, inhibit Inhibit) *Watcher {
	return &Watcher{
		log: log, metrics: m, inhibitor: newInhibitor(inhibit, log), claims: make(chan struct{}, 1), active: map[string]bool{}, frozen: map[string]bool{}, counted: map[string]model.Progress{},
		stays: map[string]stay{}, failing: map[string]failure{}, lines: map[string]failure{}, faults: map[string]failure{},
	}
}

// failure is what fails, for as long as it does.
type failure struct {
	since time.Duration // of the boot, when it failed first
	last  time.Duration // of the boot, when it failed last
	doing string
	err   error
}

// again is the failure after one more try.
func (f failure) again(doing string, err error) failure {
	now := evidence.SinceBoot()
	if f.err == nil {
		f.since = now
	}
	f.last, f.doing, f.err = now, doing, err
	return f
}

// stay is since when an unfinished job is in its state, and holds its instance. Both
// are times since the boot, so that no clock that is set makes them longer or shorter.
type stay struct {
	state   model.State
	entered time.Duration
	held    time.Duration // 0: it does not hold the instance
}

// reporting is the Watcher's knowledge of the delivery
// of reports. The Watcher's lock is held for all of it.
type reporting struct {
	away    time.Time // since when the receiver counts as away; zero when it does not
	retries int       // since then
}
