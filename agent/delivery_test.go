package agent_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// A welcome page in the place of the control plane acknowledges
// nothing: the instance stays held, and what answers is shown.
func TestWelcomePageReleasesNothing(t *testing.T) {
	for _, rule := range []string{"control-plane", "any-2xx"} {
		t.Run(rule, func(t *testing.T) {
			h := newHost(t)
			h.cfg = strings.Replace(h.cfg, "progress: 1s", "progress: 1s, acknowledge: "+rule, 1)
			h.plane.page = "<!DOCTYPE html><h1>Welcome to nginx!</h1>"
			h.start()
			h.backup("acme", "r1", "phone-1")
			if rule == "any-2xx" { // asked for
				h.eventually("released", func() bool { return h.state("phone-1") == "stopped" })
				return
			}
			h.trouble(func(i api.Info) *api.Trouble { return i.Trouble("reports_fail") }, "this was not the control plane: 200 OK without its form (text/html)")
			h.eventually("held", func() bool { return h.state("phone-1") == "frozen" })
			h.plane.mu.Lock()
			h.plane.page = ""
			h.plane.mu.Unlock()
			h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
			h.trouble(func(i api.Info) *api.Trouble { return i.Trouble("reports_fail") }, "")
		})
	}
}

// A report that the control plane refuses holds its instance, and
// is listed, counted, sent again and dropped by an operator.
func TestRefusedReportsOfAgent(t *testing.T) {
	h := newHost(t)
	h.plane.answer(func(e model.Event) int {
		if e.Type == "holdfast.backup.started" || e.Type == "holdfast.backup.completed" {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	h.start()
	h.backup("acme", "r1", "phone-1")
	client := api.NewClient(h.in("s"))
	var refused []api.RefusedReport
	h.eventually("two are refused", func() bool {
		var err error
		if refused, err = client.RefusedReports(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(final(refused)) == 2
	})
	started, completed := refused[0], refused[1]
	if started.Type != "holdfast.backup.started" || completed.Type != "holdfast.backup.completed" || completed.InstanceID != "phone-1" ||
		!strings.Contains(completed.Reason, "422 Unprocessable Entity") || completed.Refused.IsZero() || completed.JobID == "" {
		t.Errorf("%+v", refused)
	}
	h.metrics("holdfast_reports_refused_total 2", "holdfast_refused_reports 2")
	if info, err := client.Info(t.Context()); err != nil || info.ReportsRefused != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	var e *api.Error
	if err := client.DropReport(t.Context(), completed.Number); !errors.As(err, &e) || e.Code != api.CodeParameter || !strings.Contains(e.Msg, "held") {
		t.Errorf("dropped: %v", err)
	}
	if err := client.DropReport(t.Context(), 1000); !errors.As(err, &e) || !strings.Contains(e.Msg, `no such report "1000"`) {
		t.Errorf("not there: %v", err)
	}
	if err := client.DropReport(t.Context(), started.Number); err != nil {
		t.Error(err)
	}
	if h.state("phone-1") != "frozen" {
		t.Errorf("it is %s", h.state("phone-1"))
	}
	h.plane.answer(nil)
	if err := client.RetryReport(t.Context(), completed.Number); err != nil {
		t.Fatal(err)
	}
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	if got := h.plane.took("holdfast.backup.completed", "phone-1"); got == nil || got.ID != completed.ID {
		t.Errorf("sent again as %+v", got)
	}
	h.metrics("holdfast_refused_reports 0")
	audited, err := os.ReadFile(filepath.Join(h.in("state"), "audit.log"))
	if want := fmt.Sprintf("POST /v1/agent/reports/%d/retry", completed.Number); err != nil || !strings.Contains(string(audited), want) {
		t.Errorf("the audit log lacks %s: %v\n%s", want, err, audited)
	}
}

// final leaves those out that wait.
func final(all []api.RefusedReport) []api.RefusedReport {
	return slices.DeleteFunc(all, func(r api.RefusedReport) bool { return r.Refused.IsZero() })
}

// A report that is never acknowledged, nor refused, can be given
// up: later reports of its instance get through then.
func TestReportThatIsNeverTaken(t *testing.T) {
	h := newHost(t)
	h.plane.answer(func(e model.Event) int {
		if e.Type == "holdfast.backup.started" {
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusOK
	})
	h.start()
	h.backup("acme", "r1", "phone-1")
	client := api.NewClient(h.in("s"))
	var waiting []api.RefusedReport
	h.eventually("it waits", func() bool {
		var err error
		if waiting, err = client.RefusedReports(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(waiting) == 1 && waiting[0].Refused.IsZero() && strings.Contains(waiting[0].Reason, "413")
	})
	if err := client.GiveUpReport(t.Context(), waiting[0].Number); err != nil {
		t.Fatal(err)
	}
	h.eventually("released", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })
	refused, err := client.RefusedReports(t.Context())
	refused = final(refused)
	if err != nil || len(refused) != 1 || refused[0].ID != waiting[0].ID || !strings.Contains(refused[0].Reason, "operator") {
		t.Errorf("%+v, %v", refused, err)
	}
	var e *api.Error
	if err := client.GiveUpReport(t.Context(), waiting[0].Number); !errors.As(err, &e) || e.Code != api.CodeParameter {
		t.Errorf("given up twice: %v", err)
	}
}
