package agent

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/observe"
)

func page(m *metrics.Metrics) string {
	w := httptest.NewRecorder()
	well := func() error { return nil }
	m.Handler(well, well).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestLoopGoesOnAfterPanic: a loop of the agent's begins again, and its other errors end the agent.
func TestLoopGoesOnAfterPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(metrics.Options{})
		a := &Agent{metrics: m, watcher: observe.NewWatcher(slog.New(slog.DiscardHandler), m, nil)}
		fault := errors.New("a fault of the loop")
		runs, began := 0, time.Now()
		err := a.again(t.Context(), "go round", func() error {
			if runs++; runs <= 2 {
				panic("in the loop")
			}
			return fault
		})()
		if runs != 3 || err != fault || time.Since(began) != 2*againPause { //nolint:errorlint // the very value
			t.Errorf("%d runs in %v, %v", runs, time.Since(began), err)
		}
		if !strings.Contains(page(m), `holdfast_panics_total{in="loop"} 2`) {
			t.Error("not counted")
		}
	})
}
