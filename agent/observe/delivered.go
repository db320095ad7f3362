package observe

import (
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/report"
	"holdfast/internal/contain"
)

// tellAfter is how often in a row one event fails before a line is
// logged, while others pass: that it failed once is of no use to anybody.
const tellAfter = 5

// WhyWaits tells why the oldest report of the instance was not
// acknowledged when it was sent last; "" where that is not known.
func (w *Watcher) WhyWaits(instance string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.lines[instance]; f.err != nil {
		return f.err.Error()
	}
	return ""
}

// Attempted is told of each try to deliver a report.
func (w *Watcher) Attempted(t report.Attempt) {
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
		w.Panicked(metrics.PanicReport, "deliver a report", err, KeyInstance, e.Instance, "event", e.ID)
	}
	log := w.log.With(KeyInstance, e.Instance, "event", e.ID, "type", e.Type, KeyDuration, t.Took.Seconds())
	switch {
	case err == nil:
		w.metrics.ReportAcknowledged()
		log.Debug("report acknowledged")
	case e.Seq == 0:
		log.Debug("progress report was lost", KeyError, err.Error())
	case t.Refused:
		w.metrics.ReportRefused()
		log.Error("the control plane refused a report for good; holdfast reports lists it, sends it again or drops it", KeyError, err.Error())
	case t.Failures == tellAfter && !away:
		w.metrics.ReportRetried()
		log.Warn("a report is not acknowledged again and again, while others are; it is sent again, and later reports of its instance wait for it",
			KeyError, err.Error())
	default:
		w.metrics.ReportRetried()
		log.Debug("report not acknowledged, it is sent again", KeyError, err.Error())
	}
}

// Away is told when the receiver of reports begins to count as
// away, and with nil when the control plane answers again.
func (w *Watcher) Away(err error) {
	w.mu.Lock()
	since, retries := w.reports.away, w.reports.retries
	w.reports.away, w.reports.retries = time.Time{}, 0
	if err != nil {
		w.reports.away = time.Now()
	}
	w.mu.Unlock()
	if err != nil {
		w.log.Warn("reports do not reach the control plane; one at a time is tried, and instances that wait for an acknowledgement stay held",
			KeyError, err.Error())
		return
	}
	w.log.Info("reports reach the control plane again", KeyDuration, time.Since(since).Seconds(), "tries", retries)
}
