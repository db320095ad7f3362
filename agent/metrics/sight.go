package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Since counts things of one sort, and tells for how long the oldest of them lasts.
type Since struct {
	Count  int
	Oldest time.Duration
}

// Add counts one more, which lasts for age.
func (s Since) Add(age time.Duration) Since { return Since{s.Count + 1, max(s.Oldest, age)} }

// Sight is the state of an agent's jobs at one moment, and the
// list of its troubles. Ages are of a clock that nobody can set.
type Sight struct {
	Jobs     map[string]Since // unfinished jobs by state, and for how long they are in it
	Frozen   Since            // instances that stand still
	Stuck    Since            // jobs of which an act fails, and is tried again
	Troubles map[string]Since // states in which a human must act, by name
}

// sight are the gauges of a Sight.
type sight struct {
	stages, troubles       map[string]bool
	jobs, oldestJob        *prometheus.GaugeVec
	oldestFrozen           prometheus.Gauge
	stuck, oldestStuck     prometheus.Gauge
	trouble, oldestTrouble *prometheus.GaugeVec
	journalFailures        prometheus.Counter
}

func newSight(r *prometheus.Registry, o Options) sight {
	s := sight{
		stages: set(o.Stages...), troubles: set(o.Troubles...),
		jobs:            gaugeVec("unfinished_jobs", "Jobs that have not ended, by the state that they are in.", "state"),
		oldestJob:       gaugeVec("oldest_job_seconds", "For how long a job is in this state that came to it first; 0 without one.", "state"),
		oldestFrozen:    gauge("oldest_frozen_seconds", "For how long the instance stands still that stands still for longest; 0 without one."),
		stuck:           gauge("stuck_jobs", "Unfinished jobs of which an act fails, and is tried again."),
		oldestStuck:     gauge("oldest_stuck_seconds", "For how long an act of a job fails without one success; 0 without one."),
		trouble:         gaugeVec("troubles", "States in which a human must act, by name, as STATES.md has them.", "name"),
		oldestTrouble:   gaugeVec("trouble_seconds", "For how long a state lasts in which a human must act; 0 while it does not.", "name"),
		journalFailures: counter("journal_write_failures_total", "Transactions that could not be written to the journal."),
	}
	r.MustRegister(s.jobs, s.oldestJob, s.oldestFrozen, s.stuck, s.oldestStuck, s.trouble, s.oldestTrouble, s.journalFailures)
	s.show(Sight{})
	return s
}

// show sets all gauges, also the gauges that the sight does not mention.
func (s sight) show(now Sight) {
	each(s.jobs, s.oldestJob, s.stages, now.Jobs)
	each(s.trouble, s.oldestTrouble, s.troubles, now.Troubles)
	s.oldestFrozen.Set(now.Frozen.Oldest.Seconds())
	s.stuck.Set(float64(now.Stuck.Count))
	s.oldestStuck.Set(now.Stuck.Oldest.Seconds())
}

func each(count, oldest *prometheus.GaugeVec, names map[string]bool, now map[string]Since) {
	all := map[string]Since{}
	for name := range names {
		all[name] = Since{}
	}
	for name, s := range now {
		name = known(names, name)
		all[name] = Since{all[name].Count + s.Count, max(all[name].Oldest, s.Oldest)}
	}
	for name, s := range all {
		count.WithLabelValues(name).Set(float64(s.Count))
		oldest.WithLabelValues(name).Set(s.Oldest.Seconds())
	}
}

// Look shows how things stand now.
func (m *Metrics) Look(now Sight) {
	if m != nil {
		m.sight.show(now)
	}
}

// JournalFailed counts a transaction that could not be written to the journal.
func (m *Metrics) JournalFailed() {
	if m != nil {
		m.sight.journalFailures.Inc()
	}
}
