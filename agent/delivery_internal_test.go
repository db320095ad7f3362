package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"holdfast/agent/metrics"
	"holdfast/agent/report"
)

// An outage of the control plane is two lines in the log, however many tries it takes, and one event that is not taken is one.
func TestOutageIsTwoLines(t *testing.T) {
	var log bytes.Buffer
	w := newWatcher(slog.New(slog.NewTextHandler(&log, nil)), metrics.New(metrics.Options{}))
	fails := errors.New("connection refused")
	try := func(instance string, failures int, err error) {
		w.attempted(report.Attempt{Event: report.Event{Seq: 1, Instance: instance}, Err: err, Failures: failures})
	}
	for n := range 500 {
		if n == 2 {
			w.away(fails)
		}
		try(fmt.Sprint("phone-", n%100), n/100+1, fails)
		if _, reports := w.troubles(); reports == nil || reports.Error != fails.Error() {
			t.Fatalf("after %d tries the trouble is %+v", n+1, reports)
		}
	}
	w.away(nil)
	for n := range 100 {
		try(fmt.Sprint("phone-", n), 0, nil)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "connection refused") ||
		!strings.Contains(lines[1], "level=INFO") || !strings.Contains(lines[1], "tries=498") {
		t.Errorf("%d lines:\n%s", len(lines), log.String())
	}
	if _, reports := w.troubles(); reports != nil {
		t.Errorf("afterwards there is %+v", reports)
	}

	log.Reset()
	for n := range 100 {
		try("bad", n+1, errors.New("413 Content Too Large"))
		try("good", 0, nil)
	}
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "instance=bad") {
		t.Errorf("of one event that is not taken:\n%s", log.String())
	}
	if _, reports := w.troubles(); reports == nil || !strings.Contains(reports.Error, "413") {
		t.Errorf("one instance's reports are not taken, and the trouble is %+v", reports)
	}
}
