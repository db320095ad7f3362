package metrics_test

import (
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"holdfast/agent/metrics"
	"holdfast/internal/testbed"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newMetrics(process bool) *metrics.Metrics {
	return metrics.New(metrics.Options{Version: "1.2.3", Started: start, Stages: []string{"freeze", "upload"}, Troubles: []string{"drained"}, Process: process})
}

// use calls every method.
func use(m *metrics.Metrics) {
	m.JobStarted()
	m.JobStarted()
	m.JobStopped()
	m.JobFinished("backup", metrics.ResultSuccess, start.Add(time.Minute))
	m.JobFinished("backup", metrics.ResultFailed, start.Add(time.Hour))
	m.JobFinished("phone-0001", "because of phone-0001", start)
	m.QueueLength(7)
	m.BytesRead(3 << 30)
	m.BytesUploaded(1 << 20)
	m.BytesCompressed(map[string]uint64{"fastest": 3 << 20, "s2": 1 << 20})
	m.BytesRestored(1 << 20)
	m.BytesDeduplicated(2 << 30)
	m.StageTook("upload", 90*time.Second)
	m.StageTook("phone-0001", time.Second)
	m.InstanceFrozen()
	m.InstanceFrozen()
	m.InstanceThawed(1500 * time.Millisecond)
	m.ReportAcknowledged()
	m.ReportRetried()
	m.ReportsPending(2)
	m.ReportRefused()
	m.RefusedReports(3)
	m.SetPace(0.5)
	m.BaseSnapshots(3)
	m.StoreRequest("put", 16<<20, 300*time.Millisecond, metrics.StoreOK, false)
	m.StoreRequest("put new", 0, 2*time.Second, metrics.StoreError, true)
	m.StoreRequest("stat", 0, 5*time.Millisecond, metrics.StoreNotFound, false)
	m.StoreRequest("phone-0001", 1, time.Second, "phone-0001", false)
	m.StoreFault("slow_down")
	m.StoreFault("phone-0001")
	m.APIRequest("0")
	m.APIRequest("KOOPHONE.API.1000")
	m.APIRequest("phone-0001")
	m.IAMLookup("unavailable")
	m.IAMLookup("phone-0001")
	m.Panicked(metrics.PanicJob)
	m.Panicked("phone-0001")
	m.CertificateExpiry(24 * time.Hour)
	m.AuditFailed()
	m.Drift()
	m.Fork()
	m.DamagedPack()
	m.BackupGone()
	m.Warnings(3)
	m.JournalFailed()
	one := metrics.Since{}.Add(time.Minute)
	m.Look(metrics.Sight{
		Jobs: map[string]metrics.Since{"upload": one.Add(time.Hour), "phone-0001": one}, Frozen: one, Stuck: one,
		Troubles: map[string]metrics.Since{"drained": one, "phone-0001": one},
	})
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body)
}

// The page is an interface: dashboards and alerts are written to it.
func TestGoldenPage(t *testing.T) {
	m := newMetrics(false)
	use(m)
	m.StoreLoad(func() (inFlight, waiting, level int) { return 7, 3, 8 })
	m.Leftovers(func() int { return 2 })
	m.Kept(func() metrics.KeptFigures { return metrics.KeptFigures{Count: 2, Bytes: 4096, Oldest: time.Hour} })
	m.Retention(func() metrics.RetentionFigures {
		return metrics.RetentionFigures{Garbage: 7 << 20, Last: time.Unix(1_700_000_000, 0), Overdue: time.Hour, Active: 1, Waits: 2, Refused: 3, Odd: 4}
	}).Ended("done", 5, 6, 7)
	m.StoreLimits(func() (up, down int64, requests float64) { return 200 << 20, 0, 50 })
	status, page := get(t, m.Handler(nil, nil), "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, page)
	}
	page = strings.ReplaceAll(page, runtime.Version(), "go")
	golden := filepath.Join("testdata", "page.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), page); diff != "" {
		t.Errorf("page differs from %s (-want +got); -update rewrites it:\n%s", golden, diff)
	}
}

// Names follow Prometheus' own rules, and ours: one prefix.
func TestLint(t *testing.T) {
	m := newMetrics(false)
	use(m)
	m.StoreLoad(func() (inFlight, waiting, level int) { return 7, 3, 8 })
	m.Leftovers(func() int { return 2 })
	m.Kept(func() metrics.KeptFigures { return metrics.KeptFigures{Count: 2, Bytes: 4096, Oldest: time.Hour} })
	m.StoreLimits(func() (up, down int64, requests float64) { return 200 << 20, 0, 50 })
	_, page := get(t, m.Handler(nil, nil), "/metrics")
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, line := range regexp.MustCompile(`(?m)^[a-z]\w*`).FindAllString(page, -1) {
		if !strings.HasPrefix(line, "holdfast_") {
			t.Errorf("%s does not begin with holdfast_", line)
		}
	}
}

// No label that a caller passes makes a new series, and nothing about tenants shows.
func TestLabelsAreBounded(t *testing.T) {
	m := newMetrics(false)
	use(m)
	if _, page := get(t, m.Handler(nil, nil), "/metrics"); strings.Contains(page, "phone-0001") {
		t.Errorf("an instance id is on the page:\n%s", page)
	}
}

func TestProcessCollectors(t *testing.T) {
	_, page := get(t, newMetrics(true).Handler(nil, nil), "/metrics")
	for _, want := range []string{"process_resident_memory_bytes", "process_start_time_seconds", "go_goroutines", `holdfast_build_info{goversion="go`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s on the page", want)
		}
	}
}

func TestNilCountsNothing(t *testing.T) {
	var m *metrics.Metrics
	use(m)
	if status, page := get(t, m.Handler(nil, nil), "/metrics"); status != http.StatusOK || page != "" {
		t.Errorf("%d %q", status, page)
	}
}

// Several Metrics in one process do not meet, and each may be used by many goroutines.
func TestConcurrent(t *testing.T) {
	m := newMetrics(false)
	_ = newMetrics(false)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				use(m)
			}
			w := httptest.NewRecorder()
			m.Handler(nil, nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		})
	}
	wg.Wait()
	if _, page := get(t, m.Handler(nil, nil), "/metrics"); !strings.Contains(page, "holdfast_report_retries_total 200\n") {
		t.Error("lost counts")
	}
}

func TestChecks(t *testing.T) {
	var bad error
	check := func() error { return bad }
	h := newMetrics(false).Handler(check, check)
	for _, path := range []string{"/healthz", "/readyz"} {
		bad = nil
		if status, body := get(t, h, path); status != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %q", path, status, body)
		}
		bad = errors.New("draining")
		if status, body := get(t, h, path); status != http.StatusServiceUnavailable || body != "not ok: draining\n" {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, _ := get(t, h, "/"); status != http.StatusNotFound {
		t.Errorf("/: %d", status)
	}
}
