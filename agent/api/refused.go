package api

import (
	"context"
	"net/http"
	"strconv"

	"holdfast/agent/model"
)

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
