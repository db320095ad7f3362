package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// Event is one report. Data is a JSON object.
type Event struct {
	Seq      uint64 // of the outbox; 0: not kept, sent once or not at all
	ID       string // the same each time it is sent
	Type     string
	Instance string
	Time     time.Time // UTC
	Data     json.RawMessage
}

// Outbox keeps events until they are settled. Its methods are called from one goroutine at a time.
type Outbox interface {
	// Heads returns the oldest event of each instance.
	Heads() ([]Event, error)
	// Acknowledge settles an event that the control plane took.
	Acknowledge(seq uint64) error
	// Refuse settles an event that the control plane will never take.
	Refuse(seq uint64, reason string) error
	// Changed has a token whenever Heads may return something new.
	Changed() <-chan struct{}
}

// Bounds and pauses of delivery, each with its reason.
const (
	// attemptTimeout bounds one request: a control plane that takes longer is not well.
	attemptTimeout = 30 * time.Second
	// firstBackOff is the pause after a first failure, doubled after each further one.
	firstBackOff = time.Second
	// lastBackOff keeps an instance that waits for its acknowledgement from waiting long after the
	// control plane is back.
	lastBackOff = time.Minute
	// longestRetryAfter bounds what a server may ask for.
	longestRetryAfter = 15 * time.Minute
	// atOnce bounds the requests on their way; each is of another instance.
	atOnce = 8
	// answerBytes is how much of an answer is read, and answerShown how much of a refusal is kept.
	answerBytes = 64 << 10
	answerShown = 200
)

// Options are the settings of a Deliverer.
type Options struct {
	URL       string       // where events are POSTed; CheckURL must take it
	Source    string       // the CloudEvents source: this host
	Client    *http.Client // see NewClient
	TokenFile string       // bearer token, read before each request so that it can be replaced; "" sends none
	UserAgent string
	// Attempted is told of each try; refused is true when it settled the event for good. May be nil.
	// It is called on Run's goroutine.
	Attempted func(e Event, took time.Duration, err error, refused bool)
}

// Deliverer sends what is in an outbox until each event is settled: those of one instance one after
// the other, in order.
type Deliverer struct {
	outbox Outbox
	opts   Options
}

// New returns a Deliverer. Run starts it.
func New(outbox Outbox, opts Options) (*Deliverer, error) {
	if err := CheckURL(opts.URL); err != nil {
		return nil, err
	}
	if opts.Attempted == nil {
		opts.Attempted = func(Event, time.Duration, error, bool) {}
	}
	return &Deliverer{outbox: outbox, opts: opts}, nil
}

// outcome is what became of one try.
type outcome struct {
	e       Event
	err     error
	refused bool
	after   time.Duration // what the server asked for; 0: nothing
	took    time.Duration
}

// line is the delivery to one instance's line of events.
type line struct {
	busy     bool
	failures int
	next     time.Time
}

// Run delivers until ctx ends, and returns when no request is on its way. The error is the
// outbox's: what can't be read can't be delivered.
func (d *Deliverer) Run(ctx context.Context) error {
	var requests sync.WaitGroup
	defer requests.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan outcome, atOnce) // never blocks a request that ends after Run has stopped listening
	lines := map[string]*line{}
	flying := 0
	for {
		heads, err := d.outbox.Heads()
		if err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		wait := time.Hour
		now := time.Now()
		current := map[string]bool{}
		for _, e := range heads {
			current[e.Instance] = true
			l := lines[e.Instance]
			if l == nil {
				l = &line{}
				lines[e.Instance] = l
			}
			if l.busy || flying == atOnce {
				continue
			}
			if left := l.next.Sub(now); left > 0 {
				wait = min(wait, left)
				continue
			}
			l.busy = true
			flying++
			requests.Go(func() {
				o := outcome{e: e}
				if err := contain.Call(func() error { o = d.try(ctx, e); return nil }); err != nil {
					o.err = err
				}
				done <- o
			})
		}
		for name, l := range lines {
			if !l.busy && !current[name] {
				delete(lines, name) // nothing is left to send: bounded by what is in the outbox
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case o := <-done:
			flying--
			d.settle(ctx, lines[o.e.Instance], o)
		case <-d.outbox.Changed():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// settle takes the outcome of a try. An outbox that can't be written (a full disk) is a failure as any
// other: the event is sent again, with the same id.
func (d *Deliverer) settle(ctx context.Context, l *line, o outcome) {
	l.busy = false
	if o.err != nil && ctx.Err() != nil {
		return // interrupted, not failed
	}
	var err error
	switch {
	case o.e.Seq == 0:
	case o.err == nil:
		err = contain.Call(func() error { return d.outbox.Acknowledge(o.e.Seq) })
	case o.refused:
		err = contain.Call(func() error { return d.outbox.Refuse(o.e.Seq, o.err.Error()) })
	}
	if err != nil {
		o.err, o.refused = fmt.Errorf("journal the answer to report %s: %w", o.e.ID, err), false
	}
	d.opts.Attempted(o.e, o.took, o.err, o.refused)
	if o.err == nil || o.refused || o.e.Seq == 0 {
		*l = line{}
		return
	}
	l.failures++
	pause := backOff(l.failures)
	if o.after > 0 {
		pause = o.after
	}
	l.next = time.Now().Add(pause)
}

// backOff is the pause after so many failures in a row: doubling, up to lastBackOff, of which a random
// half to whole is taken, so that a thousand hosts do not come back at once.
func backOff(failures int) time.Duration {
	pause := lastBackOff
	if failures < 8 {
		pause = min(pause, firstBackOff<<(failures-1))
	}
	return pause/2 + rand.N(pause/2+1)
}

// try sends the event once.
func (d *Deliverer) try(ctx context.Context, e Event) (o outcome) {
	began := time.Now()
	o.e = e
	defer func() { o.took = time.Since(began) }()
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, fmt.Errorf("no answer within %s", attemptTimeout))
	defer cancel()
	req, err := d.request(ctx, e)
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
		o.err = fmt.Errorf("report %s: %w", e.ID, err)
		return o
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, answerBytes)) // only for the message
	if resp.StatusCode/100 == 2 {
		return o
	}
	o.err = fmt.Errorf("report %s: the control plane answered %s%s", e.ID, resp.Status, shown(body))
	o.refused = permanent(resp.StatusCode)
	if !o.refused {
		o.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return o
}

// permanent tells whether the status says that this event will never be taken. 401 does not: it is
// about our token, which can be replaced, not about the event.
func permanent(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

func shown(body []byte) string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(body)), "?")
	if text == "" {
		return ""
	}
	if len(text) > answerShown {
		text = strings.ToValidUTF8(text[:answerShown], "") + "…"
	}
	return ": " + strconv.Quote(text)
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

func (d *Deliverer) request(ctx context.Context, e Event) (*http.Request, error) {
	body, err := Encode(e, d.opts.Source)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.opts.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("report %s: %w", e.ID, err)
	}
	req.Header.Set("Content-Type", event.ApplicationCloudEventsJSON+"; charset=UTF-8")
	if d.opts.UserAgent != "" {
		req.Header.Set("User-Agent", d.opts.UserAgent)
	}
	if d.opts.TokenFile != "" {
		token, err := os.ReadFile(d.opts.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("report token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
		clear(token)
	}
	return req, nil
}

// Encode writes the event as a CloudEvent 1.0, structured JSON.
func Encode(e Event, source string) ([]byte, error) {
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
func Decode(data []byte) (e Event, source string, err error) {
	var ce event.Event
	if err := json.Unmarshal(data, &ce); err != nil {
		return Event{}, "", fmt.Errorf("decode event: %w", err)
	}
	if err := ce.Validate(); err != nil {
		return Event{}, "", fmt.Errorf("decode event: %w", err)
	}
	if !json.Valid(ce.Data()) {
		return Event{}, "", errors.New("decode event: its data is no JSON")
	}
	return Event{ID: ce.ID(), Type: ce.Type(), Instance: ce.Subject(), Time: ce.Time().UTC(), Data: ce.Data()}, ce.Source(), nil
}
