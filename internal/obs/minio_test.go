package obs_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// TestServerKilledAndBack kills the server while objects are sent and read, starts
// it again, and wants every call to have come to its end as if nothing had happened.
func TestServerKilledAndBack(t *testing.T) {
	m := testbed.StartMinIO(t)
	var retries, failed atomic.Int64
	s := open(t, m.URL(m.Bucket(t), "v"), obs.Options{
		Getenv: m.Getenv,
		Retry: &obs.RetryPolicy{
			Base: 20 * time.Millisecond, Cap: 200 * time.Millisecond, MaxElapsed: time.Minute,
			OnRetry: func(obs.RetryEvent) { retries.Add(1) },
		},
		Observe: func(e obs.Event) {
			if e.Err != nil {
				failed.Add(1)
			}
		},
	})
	const workers, size = 4, 1 << 20
	stop := make(chan struct{})
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("packs/%d/%d", w, i)
				body := obstest.Body(key, size)
				if err := s.Put(t.Context(), key, body); err != nil {
					t.Errorf("Put %s: %v", key, err)
					return
				}
				if got, err := obstest.ReadAll(t.Context(), s, key); err != nil || !bytes.Equal(got, body) {
					t.Errorf("read %s: %d bytes, %v", key, len(got), err)
					return
				}
				done.Add(1)
			}
		})
	}
	progress := func() {
		t.Helper()
		from, deadline := done.Load(), time.Now().Add(time.Minute)
		for done.Load() < from+2*workers {
			if time.Now().After(deadline) || t.Failed() {
				t.Error("nothing moves")
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	progress()
	m.Kill()
	time.Sleep(300 * time.Millisecond)
	m.Start()
	progress()
	close(stop)
	wg.Wait()
	if retries.Load() == 0 || failed.Load() < retries.Load() {
		t.Errorf("%d retries, %d failed tries: the server was away", retries.Load(), failed.Load())
	}
	n := 0
	for _, err := range s.List(t.Context(), "packs/") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != int(done.Load()) {
		t.Errorf("%d objects, want %d", n, done.Load())
	}
}

// TestServerAway: when the server stays away, the error comes in time, and names the
// request and the server.
func TestServerAway(t *testing.T) {
	m := testbed.StartMinIO(t)
	s := open(t, m.URL(m.Bucket(t), ""), obs.Options{Getenv: m.Getenv, Retry: &obs.RetryPolicy{MaxElapsed: 2 * time.Second}})
	m.Stop()
	start := time.Now()
	err := s.Put(t.Context(), "k", []byte("x"))
	if !errors.Is(err, obs.ErrUnavailable) || !strings.Contains(err.Error(), "put k") || !strings.Contains(err.Error(), "gave up") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestServerRefuses(t *testing.T) {
	m := testbed.StartMinIO(t)
	bucket := m.Bucket(t)
	for name, c := range map[string]struct {
		url    string
		getenv func(string) string
		want   error
	}{
		"no such bucket": {m.URL("bucket-none", ""), m.Getenv, obs.ErrNoBucket},
		"wrong secret":   {m.URL(bucket, ""), env("AWS_ACCESS_KEY_ID", m.AccessKey, "AWS_SECRET_ACCESS_KEY", "verywrongsecret"), obs.ErrAccess},
		"unknown id":     {m.URL(bucket, ""), env("AWS_ACCESS_KEY_ID", "nobody", "AWS_SECRET_ACCESS_KEY", "verywrongsecret"), obs.ErrAccess},
	} {
		// With retries: MinIO answers 503 for a moment after it says that it is ready.
		s := open(t, c.url, obs.Options{Getenv: c.getenv})
		_, stat := s.Stat(t.Context(), "k")
		_, read := s.ReadAt(t.Context(), "k", make([]byte, 1), 0)
		errs := map[string]error{
			"Put": s.Put(t.Context(), "k", []byte("x")), "Stat": stat, "ReadAt": read,
			"Delete": s.Delete(t.Context(), "k"), "Delete of many": s.Delete(t.Context(), "k", "l"),
		}
		for _, err := range s.List(t.Context(), "") {
			errs["List"] = err
		}
		for what, err := range errs {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %s: %v, want %v", name, what, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %s: the message shows a secret: %v", name, what, err)
			}
		}
	}
}

// TestObserve: an Observer gets the events that the metrics count.
func TestObserve(t *testing.T) {
	m := testbed.StartMinIO(t)
	var events []string
	s := open(t, m.URL(m.Bucket(t), ""), obs.Options{Getenv: m.Getenv, Observe: func(e obs.Event) {
		if e.Duration <= 0 {
			t.Errorf("%s took %v", e.Op, e.Duration)
		}
		events = append(events, fmt.Sprintf("%s %s %d %v", e.Op, e.Key, e.Bytes, e.Err == nil))
	}})
	_ = s.Put(t.Context(), "a/k", make([]byte, 100))
	_ = s.PutNew(t.Context(), "a/k", make([]byte, 100))
	_, _ = s.ReadAt(t.Context(), "a/k", make([]byte, 70), 50)
	_, _ = s.Stat(t.Context(), "none")
	for range s.List(t.Context(), "a/") {
		continue
	}
	_ = s.Delete(t.Context(), "a/k", "b")
	want := "put a/k 100 true, put new a/k 0 false, read a/k 50 true, stat none 0 false, list a/ 0 true, delete a/k 0 true"
	if got := strings.Join(events, ", "); got != want {
		t.Errorf("events\n%s\nwant\n%s", got, want)
	}
}

// BenchmarkPutMinIO is the rate of one connection with the digests that README.md weighs.
func BenchmarkPutMinIO(b *testing.B) {
	m := testbed.StartMinIO(b)
	s, err := obs.Open(b.Context(), m.URL(m.Bucket(b), ""), obs.Options{Getenv: m.Getenv})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	body := obstest.Body("pack", 16<<20)
	b.SetBytes(int64(len(body)))
	for i := 0; b.Loop(); i++ {
		if err := s.Put(b.Context(), fmt.Sprintf("packs/%d", i), body); err != nil {
			b.Fatal(err)
		}
	}
}
