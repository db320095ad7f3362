package metrics

// ReportAcknowledged counts a report that the control plane took.
func (m *Metrics) ReportAcknowledged() {
	if m != nil {
		m.reports.Inc()
	}
}

// ReportRetried counts a delivery that failed and will be tried again.
func (m *Metrics) ReportRetried() {
	if m != nil {
		m.retries.Inc()
	}
}

// ReportsPending says how many reports the outbox holds.
func (m *Metrics) ReportsPending(n int) {
	if m != nil {
		m.pending.Set(float64(n))
	}
}

// ReportRefused counts a report that the control plane refused for good.
func (m *Metrics) ReportRefused() {
	if m != nil {
		m.refused.Inc()
	}
}

// RefusedReports says how many refused reports are kept.
func (m *Metrics) RefusedReports(n int) {
	if m != nil {
		m.refusedKept.Set(float64(n))
	}
}
