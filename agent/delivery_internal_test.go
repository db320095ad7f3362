package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/agent/report"
)

// An outage of the control plane is two lines in the log, however
// many tries it takes, and one event that is not taken is one.
func TestOutageIsTwoLines(t *testing.T) {
	var log bytes.Buffer
	w := newWatcher(slog.New(slog.NewTextHandler(&log, nil)), metrics.New(metrics.Options{}))
	fails := errors.New("connection refused")
	try := func(instance string, failures int, err error) {
		w.attempted(report.Attempt{Event: model.Event{Seq: 1, Instance: instance}, Err: err, Failures: failures})
	}
	lines := func() (texts []string) {
		for _, f := range w.lines {
			texts = append(texts, f.err.Error())
		}
		return texts
	}
	for n := range 500 {
		if n == 2 {
			w.away(fails)
		}
		try(fmt.Sprint("phone-", n%100), n/100+1, fails)
		if failing := lines(); len(failing) != min(n+1, 100) || failing[0] != fails.Error() {
			t.Fatalf("after %d tries %q fail", n+1, failing)
		}
	}
	w.away(nil)
	for n := range 100 {
		try(fmt.Sprint("phone-", n), 0, nil)
	}
	logged := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(logged) != 2 || !strings.Contains(logged[0], "level=WARN") || !strings.Contains(logged[0], "connection refused") ||
		!strings.Contains(logged[1], "level=INFO") || !strings.Contains(logged[1], "tries=498") {
		t.Errorf("%d lines:\n%s", len(logged), log.String())
	}
	if failing := lines(); len(failing) > 0 {
		t.Errorf("afterwards %q fail", failing)
	}

	log.Reset()
	for n := range 100 {
		try("bad", n+1, errors.New("413 Content Too Large"))
		try("good", 0, nil)
	}
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "instance=bad") {
		t.Errorf("of one event that is not taken:\n%s", log.String())
	}
	if failing := lines(); len(failing) != 1 || !strings.Contains(failing[0], "413") {
		t.Errorf("one instance's reports are not taken, and %q fail", failing)
	}
}
