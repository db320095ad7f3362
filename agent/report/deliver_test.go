package report_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/report"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// box is an outbox in memory.
type box struct {
	mu      sync.Mutex
	events  []model.Event
	once    []model.Event // not kept
	taken   []string
	refused map[string]string
	changed chan struct{}
	fails   int // settlements that fail, as on a full disk
	flushes int
}

func newBox(events ...model.Event) *box {
	return &box{events: events, refused: map[string]string{}, changed: make(chan struct{}, 1)}
}

func ev(seq uint64, instance string) model.Event {
	return model.Event{Seq: seq, ID: fmt.Sprintf("%s-%d", instance, seq), Type: "t", Instance: instance, Time: time.Unix(1, 0), Data: []byte("{}")}
}

func (b *box) Heads(limit int, skip func(string) bool) (heads []model.Event, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if len(heads) < limit && !slices.ContainsFunc(heads, func(h model.Event) bool { return h.Instance == e.Instance }) && !skip(e.Instance) {
			heads = append(heads, e)
		}
	}
	return heads, nil
}

func (b *box) TakeProgress(limit int, skip func(string) bool) ([]model.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(limit, len(b.once))
	taken := b.once[:n:n]
	b.once = b.once[n:]
	return taken, nil
}

func (b *box) settle(seq uint64) string {
	for i, e := range b.events {
		if e.Seq == seq {
			b.events = slices.Delete(b.events, i, i+1)
			return e.ID
		}
	}
	return "unknown"
}

func (b *box) Acknowledge(seqs ...uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails > 0 {
		b.fails--
		return errors.New("no space left on device")
	}
	b.flushes++
	for _, seq := range seqs {
		b.taken = append(b.taken, b.settle(seq))
	}
	return nil
}

func (b *box) Refuse(seq uint64, reason string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[b.settle(seq)] = reason
	return nil
}

func (b *box) Changed() <-chan struct{} { return b.changed }

// reply is an answer of a control plane.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
	after  time.Duration // how long the answer takes
}

// taken acknowledges an event.
var taken = reply{status: 204}

// plane answers the n-th request, which has the events, without a network.
type plane func(n int, events []model.Event) reply

type sent struct {
	ids string
	at  time.Time
}

// deliver runs a Deliverer in a bubble for the time given
// and returns the requests and their times, from zero.
func deliver(t *testing.T, b *box, p plane, d time.Duration, adjust ...func(*report.Options)) (got []sent, began time.Time) {
	t.Helper()
	var mu sync.Mutex
	began = time.Now()
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		parts := []json.RawMessage{body}
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents-batch+json") {
			if err := json.Unmarshal(body, &parts); err != nil || len(parts) < 2 {
				t.Errorf("a batch that is none: %v: %s", err, body)
			}
		}
		var events []model.Event
		var ids []string
		for _, part := range parts {
			e, _, err := report.Decode(part)
			if err != nil {
				return nil, err
			}
			events, ids = append(events, e), append(ids, e.ID)
			for _, values := range r.Header {
				if slices.Contains(values, e.ID) {
					t.Errorf("a header of the request has the event's id, so whoever repeats it need not have read the event: %v", r.Header)
				}
			}
		}
		mu.Lock()
		n := len(got)
		got = append(got, sent{strings.Join(ids, " "), time.Now()})
		mu.Unlock()
		a := p(n, events)
		select {
		case <-time.After(a.after):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if a.err != nil {
			return nil, a.err
		}
		return &http.Response{
			StatusCode: a.status, Status: fmt.Sprint(a.status, " ", http.StatusText(a.status)), Header: a.header,
			Body: io.NopCloser(strings.NewReader(a.body)), Request: r,
		}, nil
	})}
	o := report.Options{URL: "https://control.example/", Source: "host", Client: client}
	for _, f := range adjust {
		f(&o)
	}
	dl, err := report.New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := dl.Run(ctx); err != nil {
		t.Error(err)
	}
	return got, began
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDeliversInOrderPerInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "a"), ev(2, "a"), ev(3, "b"), ev(4, "a"), ev(5, "b"))
		// The first event of a fails three times; b does not wait for it.
		fails := 3
		var mu sync.Mutex
		deliver(t, b, func(_ int, e []model.Event) reply {
			mu.Lock()
			defer mu.Unlock()
			if e[0].ID == "a-1" && fails > 0 {
				fails--
				return reply{status: 503}
			}
			return taken
		}, time.Hour)
		if got := strings.Join(b.taken, " "); got != "b-3 b-5 a-1 a-2 a-4" {
			t.Error(got)
		}
	})
}

func TestBacksOffForAsLongAsItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "a"))
		got, began := deliver(t, b, func(n int, _ []model.Event) reply {
			if n < 100 {
				return reply{err: errors.New("no route to host")}
			}
			return taken
		}, 24*time.Hour)
		if len(b.taken) != 1 || len(got) != 101 {
			t.Fatalf("%d requests, taken %v", len(got), b.taken)
		}
		for i := 1; i < len(got); i++ {
			most := min(time.Minute, time.Second<<min(i-1, 10))
			if gap := got[i].at.Sub(got[i-1].at); gap < most/2 || gap > most {
				t.Errorf("pause %d was %s, want %s to %s", i, gap, most/2, most)
			}
		}
		if took := got[100].at.Sub(began); took > 101*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// Answers to the first event of a line: which pause,
// which refuse, and which pause the receiver asks for.
func TestAnswersOfTheReceiver(t *testing.T) {
	const form = `{"error_code":"KOOPHONE.API.1000","error_msg":"because"}`
	for _, c := range []struct {
		reply
		refused bool
		pause   time.Duration // asked for by the receiver, 0: none
	}{
		{reply: taken},
		{reply: reply{status: 200, body: `{"error_code":"0","error_msg":"OK"}`}},
		{reply: reply{status: 400, body: form}, refused: true},
		{reply: reply{status: 404, body: form}},
		{reply: reply{status: 200, body: "<h1>Welcome to nginx!</h1>"}},
		{reply: reply{status: 301}},
		{reply: reply{status: 503, header: http.Header{"Retry-After": {"90"}}}, pause: 90 * time.Second},
		{reply: reply{status: 429, header: http.Header{"Retry-After": {"999999999999"}}}},
		{reply: reply{status: 503, header: http.Header{"Retry-After": {"86400"}}}, pause: 15 * time.Minute},
		{reply: reply{status: 503, header: http.Header{"Retry-After": {"soon"}}}},
	} {
		t.Run(fmt.Sprint(c.status, c.body, c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(ev(1, "a"), ev(2, "a"))
				got, _ := deliver(t, b, func(n int, _ []model.Event) reply {
					if n == 0 {
						return c.reply
					}
					return taken
				}, time.Hour)
				reason, refused := b.refused["a-1"]
				if refused != c.refused || refused && !strings.Contains(reason, fmt.Sprint(c.status)) || refused && !strings.Contains(reason, "because") {
					t.Errorf("refused %v (%s)", refused, reason)
				}
				want := "a-1 a-2"
				if c.refused {
					want = "a-2"
				}
				if taken := strings.Join(b.taken, " "); taken != want {
					t.Errorf("taken %s, want %s", taken, want)
				}
				if c.pause != 0 && got[1].at.Sub(got[0].at) != c.pause {
					t.Errorf("pause %s, want %s", got[1].at.Sub(got[0].at), c.pause)
				}
			})
		})
	}
}

// However many reports wait, a receiver that is away is asked about
// once a minute; when it is back all of them go out at once.
func TestOneProbeWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox()
		for i := range 100 {
			b.events = append(b.events, ev(uint64(i+1), fmt.Sprint("phone-", i)))
		}
		var mu sync.Mutex
		back := time.Now().Add(5 * time.Hour)
		asked := map[string]bool{}
		var away []string
		got, began := deliver(t, b, func(_ int, e []model.Event) reply {
			if time.Now().Before(back) {
				mu.Lock()
				asked[e[0].ID] = true
				mu.Unlock()
				return reply{status: 502}
			}
			return taken
		}, 6*time.Hour, func(o *report.Options) {
			o.Away = func(err error) { away = append(away, fmt.Sprint(err)) }
		})
		inLastHour := 0
		for _, s := range got {
			if d := s.at.Sub(began); d > 4*time.Hour && d < 5*time.Hour {
				inLastHour++
			}
		}
		if inLastHour > 120 || inLastHour < 60 {
			t.Errorf("%d requests in an hour in which the receiver is away", inLastHour)
		}
		if len(asked) != 100 {
			t.Errorf("%d of 100 events were tried: one that alone is not taken must not be the only one", len(asked))
		}
		if len(b.taken) != 100 || got[len(got)-1].at.After(back.Add(2*time.Minute)) {
			t.Errorf("%d taken, the last %s after the receiver was back", len(b.taken), got[len(got)-1].at.Sub(back))
		}
		if len(away) != 2 || !strings.Contains(away[0], "502") || away[1] != "<nil>" {
			t.Errorf("told of %q", away)
		}
	})
}

// An event that the receiver can't digest does not hold up the
// events of other instances, and is sent again ever more rarely.
func TestOneEventThatIsNeverTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "bad"))
		var mu sync.Mutex
		bad, late := 0, time.Duration(0)
		go func() {
			for i := range 1000 {
				time.Sleep(5 * time.Second)
				b.mu.Lock()
				b.events = append(b.events, model.Event{
					Seq: uint64(i + 2), ID: fmt.Sprint(i), Type: "t", Instance: fmt.Sprint("good-", i), Time: time.Now(), Data: []byte("{}"),
				})
				b.mu.Unlock()
				b.changed <- struct{}{}
			}
		}()
		deliver(t, b, func(_ int, e []model.Event) reply {
			mu.Lock()
			defer mu.Unlock()
			if e[0].Instance == "bad" {
				bad++
				return reply{status: 500}
			}
			late = max(late, time.Since(e[0].Time))
			return taken
		}, 2*time.Hour)
		if len(b.taken) != 1000 || late > 10*time.Second {
			t.Errorf("%d of 1000 were taken, one after %s", len(b.taken), late)
		}
		if bad > 400 {
			t.Errorf("the bad one was sent %d times in two hours", bad)
		}
	})
}

// A slow receiver gets its time, where that is configured;
// a request that takes longer is reported as slow.
func TestSlowReceiver(t *testing.T) {
	for _, c := range []struct {
		timeout time.Duration
		taken   int
	}{{0, 0}, {3 * time.Minute, 1}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBox(ev(1, "a"))
			var why string
			deliver(t, b, func(int, []model.Event) reply { return reply{status: 204, after: 2 * time.Minute} }, time.Hour, func(o *report.Options) {
				o.Timeout = c.timeout
				o.Attempted = func(a report.Attempt) { why = fmt.Sprint(a.Err) }
			})
			if len(b.taken) != c.taken || c.taken == 0 && !strings.Contains(why, "no answer within report.timeout (30s)") {
				t.Errorf("with %s: %d taken, %s", c.timeout, len(b.taken), why)
			}
		})
	}
}

// An acknowledgement that can't be journalled is asked for again.
func TestOutboxThatCantBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "a"))
		b.fails = 3
		got, _ := deliver(t, b, func(int, []model.Event) reply { return taken }, time.Hour)
		if len(got) != 4 || len(b.taken) != 1 {
			t.Errorf("sent %v, taken %v", got, b.taken)
		}
	})
}

// An event that is not kept is sent once, and its failure holds nothing up.
func TestProgressMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "b"))
		b.once = []model.Event{ev(0, "a")}
		got, _ := deliver(t, b, func(_ int, e []model.Event) reply {
			if e[0].Instance == "a" {
				return reply{status: 500}
			}
			return taken
		}, time.Hour)
		if len(got) != 2 || len(b.taken) != 1 {
			t.Errorf("sent %v, taken %v", got, b.taken)
		}
	})
}

func TestRequestOverTLS(t *testing.T) {
	requests := make(chan *http.Request, 10)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := errors.Join(os.WriteFile(ca, cert, 0o600), os.WriteFile(token, []byte("s3cret\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	client, err := report.NewClient(ca, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	run := func(path string) (*box, error) {
		b := newBox(ev(1, "a"))
		tried := make(chan error, 10)
		d, err := report.New(b, report.Options{
			URL: s.URL + path, Source: "h", Client: client, TokenFile: token, UserAgent: "holdfast/1",
			Any2xx: true, Attempted: func(t report.Attempt) { tried <- t.Err },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		err = <-tried
		cancel()
		all.Wait()
		return b, err
	}
	if _, err := run("/events"); err != nil {
		t.Fatal(err)
	}
	r := <-requests
	if r.Header.Get("Authorization") != "Bearer s3cret" || r.Header.Get("User-Agent") != "holdfast/1" ||
		!strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") || r.Method != http.MethodPost {
		t.Errorf("%s %v", r.Method, r.Header)
	}
	if b, err := run("/moved"); err == nil || !strings.Contains(err.Error(), `"/elsewhere"`) || len(b.taken) > 0 || len(b.refused) > 0 {
		t.Errorf("a redirect: %v, taken %v", err, b.taken)
	}
	<-requests
	if len(requests) > 0 {
		t.Error("the redirect was followed")
	}
	if _, err := report.NewClient(token, 0); err == nil {
		t.Error("a CA file without a certificate was taken")
	}
}
