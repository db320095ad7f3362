package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// KeptFigures are about content that restores have replaced, and that is kept.
type KeptFigures struct {
	Count  int           // restores of which something is kept
	Bytes  uint64        // of the files' sizes
	Oldest time.Duration // by the host's time up; 0 without any
}

// Kept shows, from now on, the kept content. It is called once; look is called from any goroutine.
func (m *Metrics) Kept(look func() KeptFigures) {
	if m == nil {
		return
	}
	show := func(name, help string, of func(KeptFigures) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, func() float64 { return of(look()) }))
	}
	show("kept_restores", "Restores of which the replaced content is kept.", func(k KeptFigures) float64 { return float64(k.Count) })
	show("kept_bytes", "Bytes of replaced content that is kept, by the sizes of its files.", func(k KeptFigures) float64 { return float64(k.Bytes) })
	show("oldest_kept_seconds", "For how long the replaced content is kept that is kept for longest; 0 without any.", func(k KeptFigures) float64 { return k.Oldest.Seconds() })
}
