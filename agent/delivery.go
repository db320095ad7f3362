package agent

import (
	"fmt"
	"time"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/contain"
)

// tellAfter is how often in a row one event fails before a line is
// logged, while others pass: that it failed once is of no use to anybody.
const tellAfter = 5

func (a *Agent) openReports(opened func(func() error)) error {
	r := a.cfg.Report
	var err error
	if a.client, err = report.NewClient(r.CAFile, r.Timeout); err != nil {
		return fmt.Errorf("report.ca_file: %w", err)
	}
	opened(func() error { a.client.CloseIdleConnections(); return nil })
	a.deliverer, err = report.New(outbox{a.manager, a.standing.allowed}, report.Options{
		URL: r.URL, Source: "urn:holdfast:host:" + a.cfg.HostID + ":" + a.identity.ID, Client: a.client, TokenFile: r.TokenFile,
		UserAgent: "holdfast/" + a.version, Timeout: r.Timeout, Any2xx: r.Acknowledge == config.AcknowledgeAny2xx, Batch: r.Batch,
		Attempted: a.watcher.attempted, Away: a.watcher.away,
	})
	if err != nil {
		return fmt.Errorf("report.url: %w", err)
	}
	if r.Acknowledge == config.AcknowledgeAny2xx {
		a.log.Warn("report.acknowledge is any-2xx: whoever answers at report.url with a status from 200 to 299 acknowledges reports, and so releases instances")
	}
	return nil
}

// outbox is the manager's outbox as agent/report wants it. It
// shows nothing while the agent stands still.
type outbox struct {
	m       *job.Manager
	allowed func() error
}

func (o outbox) Heads(limit int, skip func(string) bool) ([]model.Event, error) {
	if o.allowed() != nil {
		return nil, nil
	}
	return o.m.Heads(limit, skip)
}

func (o outbox) TakeProgress(limit int, skip func(string) bool) ([]model.Event, error) {
	if o.allowed() != nil {
		return nil, nil
	}
	return o.m.TakeProgress(limit, skip)
}

func (o outbox) Acknowledge(seqs ...uint64) error       { return o.m.Acknowledge(seqs...) }
func (o outbox) Refuse(seq uint64, reason string) error { return o.m.Refuse(seq, reason) }
func (o outbox) Changed() <-chan struct{}               { return o.m.OutboxChanged() }

// reporting is the watcher's knowledge of the delivery
// of reports. The watcher's lock is held for all of it.
type reporting struct {
	away    time.Time // since when the receiver counts as away; zero when it does not
	retries int       // since then
}

// whyWaits tells why the oldest report of the instance was not
// acknowledged when it was sent last; "" where that is not known.
func (w *watcher) whyWaits(instance string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.lines[instance]; f.err != nil {
		return f.err.Error()
	}
	return ""
}

// attempted is told of each try to deliver a report.
func (w *watcher) attempted(t report.Attempt) {
	e, err := t.Event, t.Err
	w.delivered(t)
	w.mu.Lock()
	r := &w.reports
	away := !r.away.IsZero()
	if err != nil && !t.Refused {
		r.retries++
	}
	w.mu.Unlock()
	if contain.Of(err) != nil {
		w.panicked(metrics.PanicReport, "deliver a report", err, keyInstance, e.Instance, "event", e.ID)
	}
	log := w.log.With(keyInstance, e.Instance, "event", e.ID, "type", e.Type, keyDuration, t.Took.Seconds())
	switch {
	case err == nil:
		w.metrics.ReportAcknowledged()
		log.Debug("report acknowledged")
	case e.Seq == 0:
		log.Debug("progress report was lost", keyError, err.Error())
	case t.Refused:
		w.metrics.ReportRefused()
		log.Error("the control plane refused a report for good; holdfast reports lists it, sends it again or drops it", keyError, err.Error())
	case t.Failures == tellAfter && !away:
		w.metrics.ReportRetried()
		log.Warn("a report is not acknowledged again and again, while others are; it is sent again, and later reports of its instance wait for it",
			keyError, err.Error())
	default:
		w.metrics.ReportRetried()
		log.Debug("report not acknowledged, it is sent again", keyError, err.Error())
	}
}

// away is told when the receiver of reports begins to count as
// away, and with nil when the control plane answers again.
func (w *watcher) away(err error) {
	w.mu.Lock()
	since, retries := w.reports.away, w.reports.retries
	w.reports.away, w.reports.retries = time.Time{}, 0
	if err != nil {
		w.reports.away = time.Now()
	}
	w.mu.Unlock()
	if err != nil {
		w.log.Warn("reports do not reach the control plane; one at a time is tried, and instances that wait for an acknowledgement stay held",
			keyError, err.Error())
		return
	}
	w.log.Info("reports reach the control plane again", keyDuration, time.Since(since).Seconds(), "tries", retries)
}
