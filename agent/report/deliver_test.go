package report_test

import (
	"context"
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

	"holdfast/agent/report"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// box is an outbox in memory.
type box struct {
	mu      sync.Mutex
	events  []report.Event
	once    []report.Event // not kept
	taken   []string
	refused map[string]string
	changed chan struct{}
	fails   int // settlements that fail, as on a full disk
}

func newBox(events ...report.Event) *box {
	return &box{events: events, refused: map[string]string{}, changed: make(chan struct{}, 1)}
}

func ev(seq uint64, instance string) report.Event {
	return report.Event{Seq: seq, ID: fmt.Sprintf("%s-%d", instance, seq), Type: "t", Instance: instance, Time: time.Unix(1, 0), Data: []byte("{}")}
}

func (b *box) Heads() (heads []report.Event, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if !slices.ContainsFunc(heads, func(h report.Event) bool { return h.Instance == e.Instance }) {
			heads = append(heads, e)
		}
	}
	heads = append(heads, b.once...)
	b.once = nil
	return heads, nil
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

func (b *box) Acknowledge(seq uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails > 0 {
		b.fails--
		return errors.New("no space left on device")
	}
	b.taken = append(b.taken, b.settle(seq))
	return nil
}

func (b *box) Refuse(seq uint64, reason string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[b.settle(seq)] = reason
	return nil
}

func (b *box) Changed() <-chan struct{} { return b.changed }

// plane answers requests without a network.
type plane func(n int, e report.Event) (status int, header http.Header, err error)

type sent struct {
	id string
	at time.Time
}

// deliver runs a Deliverer in a bubble for the time given and returns what was sent and when, from zero.
func deliver(t *testing.T, b *box, p plane, d time.Duration) (got []sent, began time.Time) {
	t.Helper()
	var mu sync.Mutex
	began = time.Now()
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		e, _, err := report.Decode(body)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		n := len(got)
		got = append(got, sent{e.ID, time.Now()})
		mu.Unlock()
		status, header, err := p(n, e)
		if err != nil {
			return nil, err
		}
		return &http.Response{
			StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: header,
			Body: io.NopCloser(strings.NewReader("because")), Request: r,
		}, nil
	})}
	dl, err := report.New(b, report.Options{URL: "https://control.example/", Source: "host", Client: client})
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
		deliver(t, b, func(_ int, e report.Event) (int, http.Header, error) {
			mu.Lock()
			defer mu.Unlock()
			if e.ID == "a-1" && fails > 0 {
				fails--
				return 503, nil, nil
			}
			return 202, nil, nil
		}, time.Hour)
		if got := strings.Join(b.taken, " "); got != "b-3 b-5 a-1 a-2 a-4" {
			t.Error(got)
		}
	})
}

func TestBacksOffForAsLongAsItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "a"))
		got, began := deliver(t, b, func(n int, _ report.Event) (int, http.Header, error) {
			if n < 100 {
				return 0, nil, errors.New("no route to host")
			}
			return 200, nil, nil
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

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status  int
		header  http.Header
		refused bool
		pause   time.Duration // asked for by the server, 0: none
	}{
		{status: 200},
		{status: 204},
		{status: 400, refused: true},
		{status: 403, refused: true},
		{status: 404, refused: true},
		{status: 410, refused: true},
		{status: 422, refused: true},
		{status: 301},
		{status: 401},
		{status: 408},
		{status: 425},
		{status: 429},
		{status: 500},
		{status: 502},
		{status: 503, header: http.Header{"Retry-After": {"90"}}, pause: 90 * time.Second},
		{status: 429, header: http.Header{"Retry-After": {"999999999999"}}},
		{status: 503, header: http.Header{"Retry-After": {"86400"}}, pause: 15 * time.Minute},
		{status: 503, header: http.Header{"Retry-After": {"soon"}}},
	} {
		t.Run(fmt.Sprint(c.status, c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(ev(1, "a"), ev(2, "a"))
				got, _ := deliver(t, b, func(n int, _ report.Event) (int, http.Header, error) {
					if n == 0 {
						return c.status, c.header, nil
					}
					return 200, nil, nil
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

// An acknowledgement that can't be journalled is asked for again.
func TestOutboxThatCantBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "a"))
		b.fails = 3
		got, _ := deliver(t, b, func(int, report.Event) (int, http.Header, error) { return 200, nil, nil }, time.Hour)
		if len(got) != 4 || len(b.taken) != 1 {
			t.Errorf("sent %v, taken %v", got, b.taken)
		}
	})
}

// What is not kept is sent once, and its failure holds nothing up.
func TestProgressMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(ev(1, "b"))
		b.once = []report.Event{ev(0, "a")}
		got, _ := deliver(t, b, func(_ int, e report.Event) (int, http.Header, error) {
			if e.Instance == "a" {
				return 500, nil, nil
			}
			return 200, nil, nil
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
	client, err := report.NewClient(report.ClientOptions{CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	run := func(path string) (*box, error) {
		b := newBox(ev(1, "a"))
		tried := make(chan error, 10)
		d, err := report.New(b, report.Options{
			URL: s.URL + path, Source: "h", Client: client, TokenFile: token, UserAgent: "holdfast/1",
			Attempted: func(_ report.Event, _ time.Duration, err error, _ bool) { tried <- err },
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
	if b, err := run("/moved"); err == nil || len(b.taken) > 0 || len(b.refused) > 0 {
		t.Errorf("a redirect: %v, taken %v", err, b.taken)
	}
	<-requests
	if len(requests) > 0 {
		t.Error("the redirect was followed")
	}
	if _, err := report.NewClient(report.ClientOptions{CAFile: token}); err == nil {
		t.Error("a CA file without a certificate was taken")
	}
	if _, err := report.NewClient(report.ClientOptions{CertFile: token, KeyFile: token}); err == nil {
		t.Error("a client certificate that is none was taken")
	}
}
