package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// eventWriteTimeout bounds how long one event may take to leave: a reader that stands still for
// longer loses its stream and may ask again.
const eventWriteTimeout = 30 * time.Second

func (h *handler) info(q *request) (any, error) {
	return h.service.Info(q.r.Context(), q.caller)
}

func (h *handler) instances(q *request) (any, error) {
	list, err := h.service.Instances(q.r.Context(), q.caller)
	return instanceList{notNil(list)}, err
}

// jobs takes ?instance=ID, ?active=true, and for pages ?limit=N and ?before=N.
func (h *handler) jobs(q *request) (any, error) {
	f := JobFilter{Limit: maxJobs}
	for key, values := range q.r.URL.Query() {
		switch {
		case key != "instance" && key != "active" && key != "before" && key != "limit":
			return nil, Refuse(CodeParameter, "%s: unknown query parameter", Quote(key))
		case len(values) != 1:
			return nil, Refuse(CodeParameter, "%s: given %d times", key, len(values))
		case key == "instance":
			f.InstanceID = values[0]
		case key == "before":
			n, err := strconv.ParseUint(values[0], 10, 64)
			if err != nil || n == 0 {
				return nil, Refuse(CodeParameter, "before: must be what next of the page before says, got %s", Quote(values[0]))
			}
			f.Before = n
		case key == "limit":
			n, err := strconv.Atoi(values[0])
			if err != nil || n < 1 || n > maxJobs {
				return nil, Refuse(CodeParameter, "limit: must be 1 to %d, got %s", maxJobs, Quote(values[0]))
			}
			f.Limit = n
		case values[0] != "true" && values[0] != "false":
			return nil, Refuse(CodeParameter, "active: must be true or false, got %s", Quote(values[0]))
		default:
			f.Active = values[0] == "true"
		}
	}
	list, next, err := h.service.Jobs(q.r.Context(), q.caller, f)
	return jobList{notNil(list), next}, err
}

// taskJobs lists the jobs of one task in full.
func (h *handler) taskJobs(q *request) (any, error) {
	id, err := q.taskID()
	if err != nil {
		return nil, err
	}
	list, _, err := h.service.Jobs(q.r.Context(), q.caller, JobFilter{TaskID: id})
	if err == nil && len(list) == 0 {
		err = UnknownTask(id)
	}
	return jobList{Jobs: list}, err
}

func (h *handler) cancel(q *request) (any, error) {
	id, err := q.taskID()
	if err == nil {
		err = noBody(q.w, q.r)
	}
	if err != nil {
		return nil, err
	}
	return nil, h.service.Cancel(q.r.Context(), q.caller, id)
}

func (h *handler) release(q *request) (any, error) { return h.onInstance(q, h.service.Release) }

func (h *handler) resume(q *request) (any, error) { return h.onInstance(q, h.service.Resume) }

func (h *handler) drain(q *request) (any, error) {
	if err := noBody(q.w, q.r); err != nil {
		return nil, err
	}
	return nil, h.service.Drain(q.r.Context(), q.caller)
}

// events streams what happens to a task until it ends: one JSON object a line, or
// server-sent events where the caller accepts text/event-stream. An error before the first
// event is a common answer; one after it is an event of type EventError, as the status is
// sent by then. A stream that ends in good order has told of the end of each job.
func (h *handler) events(q *request) (any, error) {
	id, err := q.taskID()
	if err != nil {
		return nil, err
	}
	leave, err := h.streams.enter(allowanceOf(q.caller))
	if err != nil {
		return nil, err
	}
	defer leave()
	s := newStream(q)
	err = h.service.Watch(q.r.Context(), q.caller, id, s.send)
	switch {
	case err == nil:
		s.begin()
		return nil, nil
	case !q.streamed:
		return nil, err
	case q.r.Context().Err() != nil || s.broken != nil:
		// The reader has gone, or this agent goes: then the task has
		// not ended, and the stream must not look as if it had.
		panic(http.ErrAbortHandler)
	}
	var e *Error
	if !errors.As(err, &e) {
		ref := newID()
		q.seen.Reference = ref
		h.log.Error("event stream failed", "reference", ref, "request_id", q.id, "task", id, "error", err.Error())
		e = Refuse(CodeInternal, "internal service error, reference %s", ref)
	}
	q.seen.Code = e.Code
	_ = s.send(Event{Time: time.Now().UTC(), Type: EventError, TaskID: id, ErrorCode: e.Code, ErrorMsg: e.Msg})
	return nil, nil
}

// stream writes events. It is for one goroutine.
type stream struct {
	q      *request
	ctl    *http.ResponseController
	sse    bool
	broken error // of the connection; nothing is written after it
}

func newStream(q *request) *stream {
	s := &stream{q: q, ctl: http.NewResponseController(q.w)}
	for _, accept := range q.r.Header.Values("Accept") {
		s.sse = s.sse || strings.Contains(accept, "text/event-stream")
	}
	return s
}

// begin sends the status, and lifts the server's time-outs, which are for calls that end soon.
func (s *stream) begin() {
	if s.q.streamed {
		return
	}
	s.q.streamed = true
	// Where the connection has no deadlines (a test's recorder) there is nothing to lift.
	_ = s.ctl.SetReadDeadline(time.Time{})
	_ = s.ctl.SetWriteDeadline(time.Time{})
	hd := s.q.w.Header()
	hd.Set("Content-Type", "application/x-ndjson")
	if s.sse {
		hd.Set("Content-Type", "text/event-stream")
	}
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Content-Type-Options", "nosniff")
	s.q.w.WriteHeader(http.StatusOK)
}

func (s *stream) send(e Event) error {
	if s.broken != nil {
		return s.broken
	}
	s.begin()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if s.sse {
		line = append([]byte("event: "+e.Type+"\ndata: "), append(line, '\n')...)
	}
	return s.write(append(line, '\n'))
}

// write sends text now. After an error nothing more is sent.
func (s *stream) write(text []byte) error {
	_ = s.ctl.SetWriteDeadline(time.Now().Add(eventWriteTimeout))
	if _, s.broken = s.q.w.Write(text); s.broken == nil {
		if err := s.ctl.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			s.broken = err
		}
	}
	_ = s.ctl.SetWriteDeadline(time.Time{})
	return s.broken
}
