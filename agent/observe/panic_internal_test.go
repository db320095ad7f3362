package observe

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/contain"
)

// panicked is an error as a part of the agent gets it after a panic.
func panicked() error { return contain.Call(func() error { panic("in a part") }) }

func page(m *metrics.Metrics) string {
	w := httptest.NewRecorder()
	well := func() error { return nil }
	m.Handler(well, well).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestPanicsAreToldAndCounted: each panic that a job or a report met
// is a line with the stack, and is counted. Other errors are neither.
func TestPanicsAreToldAndCounted(t *testing.T) {
	var log bytes.Buffer
	m := metrics.New(metrics.Options{})
	w := NewWatcher(slog.New(slog.NewTextHandler(&log, nil)), m, nil)
	w.Trouble("phone", "j1", "freeze", errors.New("a plain error"))
	w.Lacked("phone", "j1", "freeze", errors.New("a plain error"))
	w.Attempted(report.Attempt{Event: model.Event{}, Took: 0, Err: errors.New("a plain error"), Refused: false, Failures: 1})
	if strings.Contains(log.String(), "stack") || strings.Contains(page(m), `holdfast_panics_total{in="job"} 1`) {
		t.Errorf("a plain error is told as a panic: %s", log.String())
	}
	w.Trouble("phone", "j1", "freeze", panicked())
	w.Lacked("phone", "j1", "remove a snapshot", panicked())
	w.Attempted(report.Attempt{Event: model.Event{Seq: 1}, Took: 0, Err: panicked(), Refused: false, Failures: 1})
	if n := strings.Count(log.String(), "panic_internal_test.go"); n < 3 || strings.Count(log.String(), "level=ERROR") != 3 {
		t.Errorf("the stack is told %d times: %s", n, log.String())
	}
	for _, line := range []string{`holdfast_panics_total{in="job"} 2`, `holdfast_panics_total{in="report"} 1`, `holdfast_panics_total{in="call"} 0`} {
		if !strings.Contains(page(m), line) {
			t.Errorf("the page lacks %s", line)
		}
	}
}
