package agent

import (
	"errors"
	"fmt"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/evidence"
)

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

// staleFailure is when a failure of a job counts no more although the job has not
// advanced since: each act is tried again within minutes, so it works meanwhile.
const staleFailure = 10 * time.Minute

// stay is since when an unfinished job is in its state, and holds its instance. Both
// are times since the boot, so that no clock that is set makes them longer or shorter.
type stay struct {
	state   model.State
	entered time.Duration
	held    time.Duration // 0: it does not hold the instance
}

// moved notes that a job has entered a state. The lock is held.
func (w *watcher) moved(j *model.Job) {
	delete(w.failing, j.ID)
	if j.State.Final() {
		delete(w.stays, j.ID)
		return
	}
	s := w.stays[j.ID]
	s.state, s.entered = j.State, evidence.SinceBoot()
	switch holds := j.Hold && !j.HeldSince.IsZero(); {
	case !holds:
		s.held = 0
	case s.held == 0:
		s.held = s.entered
	}
	w.stays[j.ID] = s
}

// adopt notes a job of an earlier life. How long it was so
// before this life only the wall clock tells. The lock is held.
func (w *watcher) adopt(j *model.Job) {
	w.moved(j)
	now, s := time.Now(), w.stays[j.ID]
	s.entered -= max(0, now.Sub(j.Entered[j.State]))
	if s.held != 0 {
		s.held -= max(0, now.Sub(j.HeldSince))
	}
	w.stays[j.ID] = s
}

// failed notes that an act of a job has failed. It will be tried
// again; what fails of a job that is over is told of elsewhere.
func (w *watcher) failed(id, doing string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, unfinished := w.stays[id]; unfinished {
		w.failing[id] = w.failing[id].again(doing, err)
	}
}

// failureOf tells what fails now of a job.
func (w *watcher) failureOf(id string) (f failure, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, ok = w.failing[id]
	if ok && evidence.SinceBoot()-f.last > staleFailure {
		delete(w.failing, id)
		return failure{}, false
	}
	return f, ok
}

// fault notes the state of a part of the agent: err is nil when it works. The name is the
// trouble's name, with a slash and more where one part can work while another does not.
func (w *watcher) fault(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.faults, name)
		return
	}
	w.faults[name] = w.faults[name].again("", err)
}

// delivered notes the outcome of a try to deliver a report.
func (w *watcher) delivered(t report.Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := t.Event
	switch {
	case t.Err == nil, t.Refused:
		delete(w.lines, e.Instance)
	case e.Seq != 0 && t.Failures > 0: // progress may be lost
		w.lines[e.Instance] = w.lines[e.Instance].again(e.Type, t.Err)
	}
}

// settled forgets the failures of instances of which no report waits any more.
func (w *watcher) settled(waiting map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for instance := range w.lines {
		if !waiting[instance] {
			delete(w.lines, instance)
		}
	}
}

// journalled is told of each transaction of the journal.
func (a *Agent) journalled(err error) {
	w, by := a.watcher, "work"
	if a.probing.Load() != 0 || a.journal.Looks() {
		by = "probe"
	}
	if err != nil {
		w.metrics.JournalFailed()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.faults[troubleJournal]
	switch {
	case err != nil:
		w.faults[troubleJournal] = f.again(by, fmt.Errorf("%w: %w", errJournal, err))
	case by == "work", f.doing == "probe", evidence.SinceBoot()-f.last > staleJournal:
		delete(w.faults, troubleJournal)
	}
}

// staleJournal is how long a failed write counts that a job made while the
// probe, which needs no room, succeeds: the job tries again once a minute.
const staleJournal = 3 * time.Minute

var errJournal = errors.New("the journal can't be written")

// lookedUp is told of each question to IAM by its outcome.
func (w *watcher) lookedUp(outcome string) {
	w.metrics.IAMLookup(outcome)
	var err error
	if outcome == "unavailable" {
		err = errIAM
	}
	w.fault(troubleIAM, err)
}

var errIAM = errors.New("IAM did not answer the last question about a token; the log has the reason")
