package job

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"holdfast/agent/model"
)

// progressReport makes at most one progress event per
// Options.ProgressEvery from the engine's figures.
type progressReport struct {
	mu    sync.Mutex
	job   *model.Job
	dirty bool
	woken time.Time
	sent  time.Time
}

// settle forgets an unsent event.
func (r *progressReport) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty = false
}

func (w *worker) progressed(j *model.Job, p model.Progress) {
	w.progress.Store(&p)
	now := w.m.opts.Now()
	w.report.mu.Lock()
	w.report.job, w.report.dirty = j, true
	due := now.Sub(w.report.woken) >= watchEvery
	if due {
		w.report.woken = now
	}
	w.report.mu.Unlock()
	w.m.parts.Observer.Progressed(j, p)
	if due {
		w.m.publish(Update{Job: *j, Progress: &p})
		wake(w.m.outbox)
	}
}

// progressEvent returns the event that is due, nil when none is, or
// skip tells to leave its instance out. It counts as sent.
func (w *worker) progressEvent(now time.Time, skip func(instance string) bool) *model.Event {
	w.report.mu.Lock()
	defer w.report.mu.Unlock()
	p := w.progress.Load()
	if p == nil || !w.report.dirty || w.m.opts.ProgressEvery <= 0 {
		return nil
	}
	j := w.report.job
	// A clock that was set back must not end the reports.
	if since := now.Sub(w.report.sent); since >= 0 && since < w.m.opts.ProgressEvery || skip != nil && skip(j.Instance) {
		return nil
	}
	d := w.m.eventData(j)
	d.Files, d.BytesRead, d.BytesNew, d.BytesSent = p.Files, p.BytesRead, p.BytesNew, p.BytesSent
	d.BytesRestored, d.BytesTotal = p.BytesRestored, p.BytesTotal
	kind := model.EventProgress
	if j.IsRestore() {
		kind = model.EventRestoreProgress
	}
	data, err := json.Marshal(d)
	if err != nil {
		return nil // plain numbers and strings: can't happen, and progress may be lost
	}
	w.report.dirty, w.report.sent = false, now
	return &model.Event{
		ID:   fmt.Sprintf("%s-p%d", j.ID, now.UnixNano()),
		Type: kind, Instance: j.Instance, Task: j.Task, Job: j.ID, Time: now.UTC(), Data: data,
	}
}
