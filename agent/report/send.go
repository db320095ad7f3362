package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// answerBytes is how much of an answer is read. The control plane's own answers are far shorter.
const answerBytes = 64 << 10

// errAnswerLong says that an answer is longer than any of the control plane's.
var errAnswerLong = fmt.Errorf("longer than %d bytes", answerBytes)

// result is the outcome of one event of a request.
type result struct {
	verdict Verdict
	err     error // nil: acknowledged
	// alone says that nothing is known of the event, and that it is to be sent alone.
	alone bool
}

// outcome is the outcome of a request.
type outcome struct {
	sent    []model.Event
	probe   bool
	results []result      // one for each event; empty when the request itself failed
	err     error         // why the request failed as a whole
	after   time.Duration // the pause that the server asked for; 0: none
	took    time.Duration
	// batches says how the receiver treats batches: 1 it takes them, -1 it does not; 0 unknown.
	batches int
}

// send makes one request with one event, or with a batch of several.
func (d *Deliverer) send(ctx context.Context, events []model.Event) (o outcome) {
	began := time.Now()
	o.sent = events
	defer func() { o.took = time.Since(began) }()
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.Timeout, fmt.Errorf("no answer within report.timeout (%s)", d.opts.Timeout))
	defer cancel()
	req, err := d.request(ctx, events)
	if len(events) > 1 {
		o.batches = -1 // until the answer says otherwise: a proxy on the way may refuse its size
	}
	if err != nil {
		o.err = err
		return o
	}
	crashpoint.Hit(crashpoint.Deliver + crashpoint.Before)
	resp, err := d.opts.Client.Do(req)
	crashpoint.Hit(crashpoint.Deliver + crashpoint.After)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		o.err = err
		return o
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, Header: resp.Header}
	if a.Body, a.Broken = io.ReadAll(io.LimitReader(resp.Body, answerBytes+1)); len(a.Body) > answerBytes {
		a.Broken = errAnswerLong
	}
	if len(events) > 1 {
		d.judgeBatch(&o, a)
	} else {
		verdict, err := Judge(a, events[0].ID, d.opts.Any2xx)
		o.results = []result{{verdict: verdict, err: err}}
		if verdict != Unsettled && a.takesBatches() {
			o.batches = 1
		}
	}
	o.after = retryAfter(a.Header.Get("Retry-After"), time.Now())
	return o
}

// judgeBatch tells the meaning of an answer to a batch. A batch acknowledges an
// event only by naming it, in the control plane's form: {"error_code": "0",
// "data": {"events": [{"id": "…", "error_code": "0"}, …]}}. An event with another
// code, or without mention, is sent alone, and the answer to that decides. An
// answer that names none says that the receiver does not understand batches.
func (d *Deliverer) judgeBatch(o *outcome, a Answer) {
	f, ok := a.form()
	if a.Status == http.StatusOK && ok && f.code == codeOK {
		for _, e := range o.sent {
			r := result{alone: true, err: fmt.Errorf("the answer to a batch does not acknowledge it%s", shown([]byte(f.each[e.ID])))}
			if f.each[e.ID] == codeOK {
				r = result{verdict: Acknowledged}
				o.batches = 1
			}
			o.results = append(o.results, r)
		}
		if o.batches > 0 {
			return
		}
	}
	if a.Status/100 == 2 && (ok || a.Status == http.StatusNoContent) || notForBatches(a.Status) {
		o.results = nil
		for range o.sent {
			o.results = append(o.results, result{alone: true, err: fmt.Errorf("a batch was answered %s, which acknowledges no event", statusText(a.Status))})
		}
		return
	}
	o.err = a.why(ok)
}

// notForBatches tells whether a status may be about the form of the
// request, and so says nothing about where it was sent.
func notForBatches(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired, http.StatusRequestTimeout,
		http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

// retryAfter reads the header: seconds or a date. 0 when it says nothing of use.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.Atoi(header); err == nil {
		d = min(time.Duration(max(0, min(seconds, 1<<20)))*time.Second, longestRetryAfter)
	} else if at, err := http.ParseTime(header); err == nil {
		d = min(at.Sub(now), longestRetryAfter)
	}
	return max(0, d)
}

func (d *Deliverer) request(ctx context.Context, events []model.Event) (*http.Request, error) {
	body, kind := []byte(nil), event.ApplicationCloudEventsJSON
	for i, e := range events {
		one, err := Encode(e, d.opts.Source)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, one...)
	}
	if len(events) > 1 {
		body, kind = append(append([]byte{'['}, body...), ']'), event.ApplicationCloudEventsBatchJSON
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.opts.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind+"; charset=UTF-8")
	if d.opts.UserAgent != "" {
		req.Header.Set("User-Agent", d.opts.UserAgent)
	}
	if d.opts.TokenFile != "" {
		token, err := os.ReadFile(d.opts.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("report.token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
		clear(token)
	}
	return req, nil
}

// Encode writes the event as a CloudEvent 1.0, structured JSON.
func Encode(e model.Event, source string) ([]byte, error) {
	ce := event.New(event.CloudEventsVersionV1)
	ce.SetID(e.ID)
	ce.SetType(e.Type)
	ce.SetSource(source)
	ce.SetSubject(e.Instance)
	ce.SetTime(e.Time)
	if err := ce.SetData(event.ApplicationJSON, e.Data); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	if err := ce.Validate(); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	b, err := ce.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	return b, nil
}

// Decode reads what Encode wrote, for a control plane in Go. Seq is 0: it is the agent's own.
func Decode(data []byte) (e model.Event, source string, err error) {
	var ce event.Event
	if err := json.Unmarshal(data, &ce); err != nil {
		return model.Event{}, "", fmt.Errorf("decode event: %w", err)
	}
	if err := ce.Validate(); err != nil {
		return model.Event{}, "", fmt.Errorf("decode event: %w", err)
	}
	if !json.Valid(ce.Data()) {
		return model.Event{}, "", errors.New("decode event: its data is no JSON")
	}
	return model.Event{ID: ce.ID(), Type: ce.Type(), Instance: ce.Subject(), Time: ce.Time().UTC(), Data: ce.Data()}, ce.Source(), nil
}
