package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"holdfast/internal/contain"
)

// besides are the parts of an answer that the contract has beside its data.
type besides struct {
	StatusList    []InstanceStatus `json:"status_list,omitempty"`
	StatusResults []InstanceStatus `json:"status_results,omitempty"`
}

// split takes the parts that go beside the data from the result of a call.
func split(data any) (any, besides) {
	switch v := data.(type) {
	case PrepareAnswer:
		return v.TaskAnswer, besides{StatusList: v.StatusList}
	case statusResults:
		return nil, besides{StatusResults: v}
	}
	return data, besides{}
}

type statusResults []InstanceStatus

// answer is the form of every answer.
type answer struct {
	Code string `json:"error_code"`
	Msg  string `json:"error_msg"`
	Data any    `json:"data,omitempty"`
	besides
}

// answer writes an answer unless one has begun.
func (h *handler) answer(q *request, status int, code, msg string, data any) {
	q.seen.Status, q.seen.Code = status, code
	if q.w.begun {
		return
	}
	if h.audit != nil && q.seen.Command {
		q.note()
		h.audit(*q.seen)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	data, beside := split(data)
	if err := enc.Encode(answer{code, msg, data, beside}); err != nil {
		// Only a time beyond year 9999 or a broken Service gets here;
		// it is a panic of ours, caught by serve.
		panic(err)
	}
	hd := q.w.Header()
	hd.Set("Content-Type", "application/json")
	hd.Set("Content-Length", strconv.Itoa(b.Len()))
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Content-Type-Options", "nosniff")
	q.w.WriteHeader(status)
	_, _ = q.w.Write(b.Bytes()) // the caller is gone; there is nobody to tell
}

// refuse answers with an error of the contract, or hides one of ours behind a reference.
func (h *handler) refuse(q *request, err error) {
	var e *Error
	if !errors.As(err, &e) {
		h.fail(q, err)
		return
	}
	if e.RetryAfter > 0 {
		seconds := int64((e.RetryAfter + time.Second - 1) / time.Second)
		q.w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	status := e.Status
	if status == 0 { // an Error made by hand
		status = statusOf(e.Code)
	}
	h.answer(q, status, e.Code, e.Msg, nil)
}

// fail answers .9999 with a reference and logs what happened under the same reference.
func (h *handler) fail(q *request, err error, attrs ...any) {
	if p := contain.Of(err); p != nil { // on a goroutine that the call started
		q.seen.Panicked = true
		attrs = append(attrs, "stack", string(p.Stack))
	}
	ref := newID()
	q.seen.Reference = ref
	level := slog.LevelError
	if q.r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		level = slog.LevelDebug // the caller hung up; nobody reads the answer
	}
	h.log.Log(context.WithoutCancel(q.r.Context()), level, "call failed", append([]any{
		"reference", ref, "method", q.r.Method, "route", q.seen.Route, "request_id", q.id, "error", err.Error(),
	}, attrs...)...)
	h.answer(q, http.StatusInternalServerError, CodeInternal, "internal service error, reference "+ref, nil)
}

// newID gives 64 random bits in hex: enough to tell the calls of a log's lifetime apart.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
