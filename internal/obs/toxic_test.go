package obs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// TestNetwork puts and reads through a network with one fault after the other. The test
// heals a fault that breaks a request when the request has failed; every call ends as
// if there had been no fault.
func TestNetwork(t *testing.T) {
	m := testbed.StartMinIO(t)
	bucket := m.Bucket(t)
	type attributes = map[string]int
	const up, down = testbed.ToServer, testbed.FromServer
	for _, c := range []struct {
		name, kind, direction string
		attributes            attributes
		puts, reads           bool // break and are tried again
	}{
		{"late", "latency", up, attributes{"latency": 50, "jitter": 30}, false, false},
		{"narrow up", "bandwidth", up, attributes{"rate": 4000}, false, false},
		{"narrow down", "bandwidth", down, attributes{"rate": 4000}, false, false},
		{"in small pieces", "slicer", up, attributes{"average_size": 4000, "size_variation": 1000}, false, false},
		{"closes late", "slow_close", down, attributes{"delay": 500}, false, false},
		{"reset in mid-body", "limit_data", up, attributes{"bytes": 300_000}, true, false},
		{"reset at once", "reset_peer", up, attributes{"timeout": 0}, true, true},
		{"answer cut off", "limit_data", down, attributes{"bytes": 100}, true, true},
		{"content cut off", "limit_data", down, attributes{"bytes": 300_000}, false, true},
		{"half closed: nothing gets there", "timeout", up, attributes{"timeout": 0}, true, true},
		{"half closed: nothing comes back", "timeout", down, attributes{"timeout": 0}, true, true},
		{"drips", "slicer", up, attributes{"average_size": 64, "size_variation": 1, "delay": 600_000}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := testbed.StartToxic(t, m.Endpoint)
			var retries atomic.Int64
			stall := time.Minute
			if c.puts && c.reads && c.kind != "limit_data" {
				// only this time-out ends a request that gets no answer; after the
				// healing it is also the time that a busy host has
				stall = 3 * time.Second
			}
			s := open(t, m.URLVia(x.Endpoint, bucket, ""), obs.Options{Getenv: m.Getenv, Stall: stall, Retry: &obs.RetryPolicy{
				Base: 10 * time.Millisecond, MaxElapsed: time.Minute,
				OnRetry: func(obs.RetryEvent) {
					retries.Add(1)
					x.Heal()
				},
			}})
			key := strings.NewReplacer(" ", "-", ":", "").Replace(c.name)
			body := obstest.Body(key, 1<<20)
			x.Add(c.kind, c.direction, c.attributes)
			if err := s.Put(t.Context(), key, body); err != nil {
				t.Errorf("put: %v", err)
			}
			if n := retries.Swap(0); (n > 0) != c.puts {
				t.Errorf("put: %d retries", n)
			}
			x.Heal()
			x.Add(c.kind, c.direction, c.attributes)
			got := make([]byte, len(body))
			if _, err := s.ReadAt(t.Context(), key, got, 0); err != nil || !bytes.Equal(got, body) {
				t.Errorf("read: %v", err)
			}
			if n := retries.Load(); (n > 0) != c.reads {
				t.Errorf("read: %d retries", n)
			}
		})
	}
}

// TestOneDeadConnection: of several puts at once one meets a connection that is
// dead; it is given up and made on another, and the rest does not wait for it.
func TestOneDeadConnection(t *testing.T) {
	m := testbed.StartMinIO(t)
	hole, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hole.Close() }()
	var dials atomic.Int64
	var retries sync.Map
	s := open(t, m.URL(m.Bucket(t), ""), obs.WithTransport(obs.Options{
		Getenv: m.Getenv, Stall: 15 * time.Second,
		Retry: &obs.RetryPolicy{OnRetry: func(e obs.RetryEvent) { retries.Store(e.Key, e.Err) }},
	}, func(tr *http.Transport) {
		next := tr.DialContext
		tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				address = hole.Addr().String()
			}
			return next(ctx, network, address)
		}
	}))
	ended := make(chan string, 6)
	var wg sync.WaitGroup
	for i := range cap(ended) {
		wg.Go(func() {
			key := fmt.Sprint("k", i)
			if err := s.Put(t.Context(), key, obstest.Body(key, 200_000)); err != nil {
				t.Error(err)
			}
			ended <- key
		})
	}
	wg.Wait()
	close(ended)
	last := ""
	for key := range ended {
		last = key
	}
	n := 0
	retries.Range(func(key, err any) bool {
		n++
		if key != last || !errors.Is(err.(error), obs.ErrUnavailable) {
			t.Errorf("%v was tried again after %v; the last to end was %s", key, err, last)
		}
		return true
	})
	if n != 1 {
		t.Errorf("%d puts met the dead connection, want 1", n)
	}
}
