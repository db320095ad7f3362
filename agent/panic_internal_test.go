package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/contain"
	"holdfast/internal/vault"
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
	w := newWatcher(slog.New(slog.NewTextHandler(&log, nil)), m)
	w.Trouble("phone", "j1", "freeze", errors.New("a plain error"))
	w.Lacked("phone", "j1", "freeze", errors.New("a plain error"))
	w.attempted(report.Attempt{Event: model.Event{}, Took: 0, Err: errors.New("a plain error"), Refused: false, Failures: 1})
	if strings.Contains(log.String(), "stack") || strings.Contains(page(m), `holdfast_panics_total{in="job"} 1`) {
		t.Errorf("a plain error is told as a panic: %s", log.String())
	}
	w.Trouble("phone", "j1", "freeze", panicked())
	w.Lacked("phone", "j1", "remove a snapshot", panicked())
	w.attempted(report.Attempt{Event: model.Event{Seq: 1}, Took: 0, Err: panicked(), Refused: false, Failures: 1})
	if n := strings.Count(log.String(), "panic_internal_test.go"); n < 3 || strings.Count(log.String(), "level=ERROR") != 3 {
		t.Errorf("the stack is told %d times: %s", n, log.String())
	}
	for _, line := range []string{`holdfast_panics_total{in="job"} 2`, `holdfast_panics_total{in="report"} 1`, `holdfast_panics_total{in="call"} 0`} {
		if !strings.Contains(page(m), line) {
			t.Errorf("the page lacks %s", line)
		}
	}
}

// TestLoopGoesOnAfterPanic: a loop of the agent's begins again, and its other errors end the agent.
func TestLoopGoesOnAfterPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(metrics.Options{})
		a := &Agent{metrics: m, watcher: newWatcher(slog.New(slog.DiscardHandler), m)}
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

// TestVaultIsOpenedAgainAfterPanic: the next job does not use locks that a panic may have left.
func TestVaultIsOpenedAgainAfterPanic(t *testing.T) {
	v := &vaults{open: map[string]*openVault{}}
	used, other := &vault.Vault{}, &vault.Vault{}
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	o := &openVault{turn: turn, vault: used}
	v.open["acme"] = o
	v.drop("acme", other)
	if o.vault != used {
		t.Error("another vault was dropped")
	}
	v.drop("nobody", used)
	v.drop("acme", used)
	if o.vault != nil || len(turn) != 1 {
		t.Errorf("the vault is still used, or its turn is lost (%d)", len(turn))
	}
}
