package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RetentionFigures are about the vaults that this host prunes.
type RetentionFigures struct {
	// Garbage are the bytes of packs that no backup needs and that the last prunes of this host
	// left, by retention.max_garbage or because the store did not delete them.
	Garbage int64
	// Last is when the vault was last pruned that was pruned the longest ago, by the clock of the
	// store; zero where this host knows of no prune.
	Last time.Time
	// Overdue is for how long that prune is due: longer than retention.every ago; 0 while it is in
	// time, and where nobody but a command prunes.
	Overdue time.Duration
	// Active is 1 while a prune is at work on this host, and Waits counts the backups, readers and
	// jobs that it waits for.
	Active, Waits int
	// Refused counts the packs that the store did not delete in the last prunes of this host.
	Refused int
	// Odd counts the backups whose time can't be right, and that stay for that.
	Odd int
}

// Results of a prune, as label values.
var prunes = set("done", "failed", "cancelled")

// retention are the counters of prunes. They belong to one Metrics.
type retention struct {
	ended     *prometheus.CounterVec
	forgotten prometheus.Counter
	backups   prometheus.Counter
	bytes     prometheus.Counter
}

// Pruning counts prunes.
type Pruning struct{ r *retention }

// Retention shows, from now on, the figures of the vaults that this host prunes, and returns the
// counters of prunes. It is called once; look is called from any goroutine.
func (m *Metrics) Retention(look func() RetentionFigures) *Pruning {
	if m == nil {
		return &Pruning{}
	}
	show := func(name, help string, of func(RetentionFigures) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, func() float64 { return of(look()) }))
	}
	show("garbage_bytes", "Bytes of packs that no backup needs and that the last prunes of this host left.", func(f RetentionFigures) float64 { return float64(f.Garbage) })
	show("last_prune_timestamp_seconds", "When the vault was last pruned that was pruned the longest ago, Unix time; 0 where this host knows of no prune.", func(f RetentionFigures) float64 {
		if f.Last.IsZero() {
			return 0
		}
		return seconds(f.Last)
	})
	show("prune_overdue_seconds", "For how long a prune of a vault is due; 0 while all are in time.", func(f RetentionFigures) float64 { return f.Overdue.Seconds() })
	show("prunes_active", "Prunes at work now.", func(f RetentionFigures) float64 { return float64(f.Active) })
	show("prune_waits", "Backups, readers and jobs that a prune waits for now.", func(f RetentionFigures) float64 { return float64(f.Waits) })
	show("prune_refused_packs", "Packs that the store did not delete in the last prunes of this host.", func(f RetentionFigures) float64 { return float64(f.Refused) })
	show("odd_backups", "Backups whose time can't be right, and that stay for that, in the last prunes of this host.", func(f RetentionFigures) float64 { return float64(f.Odd) })
	r := &retention{
		ended:     counterVec("prunes_total", "Prunes that ended on this host.", "result"),
		forgotten: counter("forgotten_backups_total", "Backups that this host forgot by the rules of retention."),
		backups:   counter("pruned_backups_total", "Forgotten backups that prunes of this host deleted."),
		bytes:     counter("pruned_bytes_total", "Bytes of packs that prunes of this host deleted."),
	}
	m.registry.MustRegister(r.ended, r.forgotten, r.backups, r.bytes)
	for result := range prunes {
		r.ended.WithLabelValues(result)
	}
	return &Pruning{r}
}

// Ended counts a prune that ended, with the backups that it forgot and deleted, and the bytes of
// the packs that it deleted.
func (p *Pruning) Ended(result string, forgotten, backups int, bytes int64) {
	if p == nil || p.r == nil {
		return
	}
	p.r.ended.WithLabelValues(known(prunes, result)).Inc()
	p.r.forgotten.Add(float64(max(0, forgotten)))
	p.r.backups.Add(float64(max(0, backups)))
	p.r.bytes.Add(float64(max(0, bytes)))
}
