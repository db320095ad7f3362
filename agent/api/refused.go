package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"holdfast/agent/model"
)

// Refuser is the part of a Service about reports that the control plane does not take.
type Refuser interface {
	// RefusedReports lists the reports that were refused for good and, of the reports that
	// wait for their acknowledgement, the oldest of each instance; each kind oldest first.
	RefusedReports(ctx context.Context, c model.Caller) ([]RefusedReport, error)
	// GiveUpReport takes a waiting report out of its line, as if the control plane had refused it.
	GiveUpReport(ctx context.Context, c model.Caller, number uint64) error
	// RetryReport sends one again, with the id that it had. An
	// instance that is held for it goes on when it is acknowledged.
	RetryReport(ctx context.Context, c model.Caller, number uint64) error
	// DropReport forgets one: the control plane never gets it. It is
	// refused while an instance is held for the report.
	DropReport(ctx context.Context, c model.Caller, number uint64) error
}

// RefusedReport is a report that the control plane refused for
// good, or that waits for its acknowledgement. Times are UTC.
type RefusedReport struct {
	Number     uint64    `json:"number"` // as ReportEvent.Seq
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	Time       time.Time `json:"time"` // of the reported state
	InstanceID string    `json:"instance_id"`
	TaskID     string    `json:"task_id"`
	JobID      string    `json:"job_id"`
	Refused    time.Time `json:"refused,omitzero"` // zero for a report that waits
	// who refused it and why, or why it was not acknowledged when it was sent last
	Reason string `json:"reason,omitempty"`
}

type refusedList struct {
	Reports []RefusedReport `json:"reports"`
}

// UnknownReport is the refusal for a number that none of the reports has which the call is about.
func UnknownReport(number string) *Error {
	return Refuse(CodeParameter, "number: no such report %s", Quote(number))
}

func (h *handler) refusedReports(q *request) (any, error) {
	list, err := h.service.RefusedReports(q.r.Context(), q.caller)
	return refusedList{notNil(list)}, err
}

func (h *handler) retryReport(q *request) (any, error) { return h.onReport(q, h.service.RetryReport) }

func (h *handler) dropReport(q *request) (any, error) { return h.onReport(q, h.service.DropReport) }

func (h *handler) giveUpReport(q *request) (any, error) {
	return h.onReport(q, h.service.GiveUpReport)
}

func (h *handler) onReport(q *request, do func(context.Context, model.Caller, uint64) error) (any, error) {
	text := q.r.PathValue("number")
	number, err := strconv.ParseUint(text, 10, 63)
	if err != nil || number == 0 {
		return nil, UnknownReport(text)
	}
	if err := noBody(q.w, q.r); err != nil {
		return nil, err
	}
	q.seen.Report = number
	return nil, do(q.r.Context(), q.caller, number)
}

// RefusedReports lists refused and waiting reports; see Refuser.
func (c *Client) RefusedReports(ctx context.Context) ([]RefusedReport, error) {
	var v refusedList
	err := c.call(ctx, http.MethodGet, "/v1/agent/reports", "", nil, &v)
	return v.Reports, err
}

// RetryReport sends a refused report again.
func (c *Client) RetryReport(ctx context.Context, number uint64) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/reports/"+strconv.FormatUint(number, 10)+"/retry", "", nil, nil)
}

// DropReport forgets a refused report.
func (c *Client) DropReport(ctx context.Context, number uint64) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/reports/"+strconv.FormatUint(number, 10)+"/drop", "", nil, nil)
}

// GiveUpReport takes a report that waits out of its line.
func (c *Client) GiveUpReport(ctx context.Context, number uint64) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/reports/"+strconv.FormatUint(number, 10)+"/give-up", "", nil, nil)
}
