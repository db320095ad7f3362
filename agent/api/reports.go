package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// headerLastEvent is the header by which a reader of server-sent events names its last event.
const headerLastEvent = "Last-Event-ID"

// reports is GET /v1/agent/events.
func (h *handler) reports(q *request) (any, error) {
	var after *uint64
	if values := q.r.Header.Values(headerLastEvent); len(values) > 0 {
		n, err := strconv.ParseUint(values[0], 10, 63)
		if err != nil || len(values) > 1 {
			return nil, Refuse(CodeParameter, "last-event-id: must be one number of an event, got %s", Quote(values[0]))
		}
		after = &n
	}
	leave, err := h.streams.enter(allowanceOf(q.caller))
	if err != nil {
		return nil, err
	}
	defer leave()
	s := newStream(q)
	s.sse = true
	// The end of the server is no end of the events: a reader that
	// finds the stream closed asks again.
	err = h.service.Reports(q.r.Context(), q.caller, after, s.report)
	switch {
	case err == nil, q.r.Context().Err() != nil, s.broken != nil:
		s.begin()
		return nil, nil
	case q.streamed: // the reader sees the end, and asks again with the last id that it has
		ref := newID()
		q.seen.Reference = ref
		h.log.Error("event stream failed", "reference", ref, "request_id", q.id, "error", err.Error())
		panic(http.ErrAbortHandler)
	}
	return nil, err
}

// report sends one event, or a comment for one without a type.
func (s *stream) report(e ReportEvent) error {
	if s.broken != nil {
		return s.broken
	}
	s.begin()
	text := []byte(":\n\n")
	if e.Type != "" {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		text = fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Type, data)
	}
	return s.write(text)
}

// Reports calls fn for what reports carry, after the event of a number or from now on
// (nil), until ctx ends, fn returns an error (which it returns), or the agent goes
// away (ErrCut, or ErrNoAgent): ask again then, with the number of the last event.
func (c *Client) Reports(ctx context.Context, after *uint64, fn func(ReportEvent) error) error {
	header := http.Header{}
	if after != nil {
		header.Set(headerLastEvent, strconv.FormatUint(*after, 10))
	}
	resp, err := c.doWith(ctx, http.MethodGet, "/v1/agent/events", header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeAnswer(resp, nil)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventBytes)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var e ReportEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("events of the agent: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("events of the agent: %w", cutOff(ctx, err))
	}
	return fmt.Errorf("events of the agent: %w", cutOff(ctx, io.ErrUnexpectedEOF))
}
