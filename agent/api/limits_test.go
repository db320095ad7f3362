package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/agent/api"
)

// memory returns the bytes that the program holds now, after a collection.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// answers tells whether the API serves a call now, over a new connection.
func (b *bed) answers(t *testing.T, when string) {
	t.Helper()
	b.http.CloseIdleConnections()
	if r := b.send(http.MethodGet, "/v1/instances/tasks/task-t1", hdr("x-request-id", "r", "x-auth-token", "t1"), nil); r.Code != api.CodeOK {
		t.Errorf("%s: %s", when, r.raw)
	}
}

// Each caller has an allowance of its own, which fills up again;
// addresses have theirs, before tokens are looked at.
func TestRequestsPerCaller(t *testing.T) {
	h := api.NewHandler(newFake(), tokens, api.Options{Requests: 5})
	send := func(token, address string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/v1/agent/info", nil)
		r.Header, r.RemoteAddr = hdr("x-request-id", "r", "x-auth-token", token), address+":1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	count := func(token, address string, n int) (taken int) {
		for range n {
			w := send(token, address)
			if w.Code == http.StatusOK || strings.Contains(w.Body.String(), api.CodeNoTenant) {
				taken++
			} else if w.Code != 500 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "too many requests") {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		return taken
	}
	// Twice the rate at once, and what filled up while this test ran.
	if n := count("t1", "192.0.2.1", 40); n < 10 || n > 30 {
		t.Errorf("%d of 40 were taken", n)
	}
	if n := count("plane", "192.0.2.1", 5); n != 5 {
		t.Errorf("another caller of the same address: %d of 5", n)
	}
	if n := count("stolen", "192.0.2.2", 400); n < 100 || n > 300 {
		t.Errorf("made-up tokens: %d of 400 were looked at", n)
	}
	if n := count("ops", "192.0.2.3", 5); n != 5 {
		t.Errorf("another address: %d of 5", n)
	}
	// Many addresses take bounded memory.
	before := memory()
	for i := range 100_000 {
		send("stolen", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	grown := memory() - before
	t.Logf("100,000 addresses took %d KiB", grown>>10)
	if grown > 8<<20 {
		t.Errorf("100,000 addresses took %d bytes", grown)
	}
	runtime.KeepAlive(h)
}

// One caller opens no more than 16 streams.
func TestStreamsPerCaller(t *testing.T) {
	b := newBed(t)
	b.watch = func(ctx context.Context, send func(api.Event) error) error {
		if err := send(api.Event{Type: api.EventStage}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	open := func(token string) (string, func()) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/agent/tasks/task-t1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = hdr("x-request-id", "r", "x-auth-token", token)
		resp, err := b.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 80)
		n, _ := io.ReadAtLeast(resp.Body, first, 20)
		return string(first[:n]), func() { _ = resp.Body.Close() }
	}
	var closers []func()
	for i := range 16 {
		first, end := open("t1")
		closers = append(closers, end)
		if !strings.Contains(first, `"type"`) && !strings.Contains(first, `"time"`) {
			t.Fatalf("stream %d: %s", i, first)
		}
	}
	first, end := open("t1")
	if end(); !strings.Contains(first, api.CodeInternal) {
		t.Errorf("the 17th: %s", first)
	}
	first, end = open("plane")
	if end(); strings.Contains(first, api.CodeInternal) {
		t.Errorf("of another caller: %s", first)
	}
	for _, end := range closers {
		end()
	}
	for { // the server notices a little later
		first, end = open("t1")
		if end(); !strings.Contains(first, api.CodeInternal) {
			return
		}
	}
}

// limited serves with caps on connections.
func limited(t *testing.T, total, each int) *bed {
	t.Helper()
	return serveBed(t, func(srv *http.Server, l net.Listener) net.Listener { return api.LimitConnections(srv, l, total, each) })
}

// TestIdleConnections opens 10,000 connections that say nothing, from many
// addresses: all but the caps are closed, and the API answers all the while.
func TestIdleConnections(t *testing.T) {
	want := 10_000
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	want = min(want, int(l.Cur)/2-200)
	const total = 512
	b := limited(t, total, 128)
	before := memory()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for i := range want {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}}
		c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(b.url, "https://"))
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, c)
		if i%2500 == 2499 {
			b.answers(t, fmt.Sprintf("with %d connections", i+1))
		}
	}
	grown := memory() - before
	t.Logf("%d idle connections took %d KiB (both ends)", want, grown>>10)
	if grown > 64<<20 {
		t.Errorf("%d connections took %d bytes", want, grown)
	}
	// All but the caps are closed by the server.
	closed := 0
	for _, c := range open[:want-total] {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			closed++
		}
	}
	if closed != want-total {
		t.Errorf("%d of %d are closed", closed, want-total)
	}
	b.answers(t, "at the end")
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// One address gets its share, and connections at work are not closed for new ones.
func TestConnectionsOfOneAddress(t *testing.T) {
	b := limited(t, 6, 4)
	working := make(chan struct{}, 10)
	release := make(chan struct{})
	b.watch = func(ctx context.Context, send func(api.Event) error) error {
		working <- struct{}{}
		<-release
		return nil
	}
	dial := func(address byte) *tls.Conn {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, address)}}
		cfg := b.http.Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		c, err := tls.DialWithDialer(d, "tcp", strings.TrimPrefix(b.url, "https://"), cfg)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	for range 4 {
		c := dial(1)
		if c == nil {
			t.Fatal("refused below the cap")
		}
		fmt.Fprintf(c, "GET /v1/agent/tasks/task-t1/events HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nX-Auth-Token: t1\r\n\r\n")
		<-working
	}
	if dial(1) != nil {
		t.Error("a fifth of one address, while all are at work")
	}
	idle := []*tls.Conn{dial(2), dial(3)}
	if idle[0] == nil || idle[1] == nil {
		t.Fatal("others are refused")
	}
	if dial(4) == nil {
		t.Error("refused although others only wait")
	}
	if _, err := idle[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest that waits was not closed: %v", err)
	}
	close(release)
	b.answers(t, "afterwards")
}

// Whoever sends a header a byte at a time, or none, is cut off.
func TestSlowLoris(t *testing.T) {
	// The time-out bounds handshakes too: less would cut off whom a busy host slows down.
	b := newBed(t, func(s *http.Server) { s.ReadHeaderTimeout = 5 * time.Second })
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			cfg := b.http.Transport.(*http.Transport).TLSClientConfig.Clone()
			cfg.NextProtos = []string{"http/1.1"} // HTTP/2 gives its preface ten seconds
			c, err := tls.Dial("tcp", strings.TrimPrefix(b.url, "https://"), cfg)
			if err != nil {
				return // cut off in the handshake, where the host is busy
			}
			defer c.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = io.Copy(io.Discard, c)
			}()
			text := "POST /v1/instances/backup HTTP/1.1\r\nHost: h\r\nX-A: " + strings.Repeat("a", 1<<20)
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				case <-time.After(10 * time.Millisecond):
					if i%2 == 0 {
						_, _ = c.Write([]byte(text[n : n+1]))
					}
				}
			}
		})
	}
	b.answers(t, "among slow callers")
	all.Wait() // in vain, were one of them not cut off
}

// Header floods are refused without being kept, and so are bodies of 10 GiB.
func TestFloods(t *testing.T) {
	b := newBed(t)
	before := memory()
	for what, header := range map[string]func(i int) (string, string){
		"many headers":  func(i int) (string, string) { return fmt.Sprintf("X-%d", i), "v" },
		"a long header": func(i int) (string, string) { return "X", strings.Repeat("v", 1000) },
	} {
		h := hdr("x-request-id", "r", "x-auth-token", "t1")
		for i := range 10_000 {
			k, v := header(i)
			h.Add(k, v)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/agent/info", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		if resp, err := b.http.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s: %s", what, resp.Status)
			}
		}
	}
	const huge = 10 << 30
	for _, length := range []int64{huge, -1} {
		body := &endlessBody{}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/v1/instances/backup", io.NopCloser(io.LimitReader(body, huge)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		req.Header = hdr("x-request-id", "r", "x-auth-token", "t1")
		if resp, err := b.http.Do(req); err == nil {
			data, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 400 || !bytes.Contains(data, []byte("body: larger than")) {
				t.Errorf("%s %s", resp.Status, data)
			}
		}
		t.Logf("of a body of 10 GiB (declared: %v) %d KiB were taken", length > 0, body.n.Load()>>10)
		if n := body.n.Load(); n > 8<<20 {
			t.Errorf("%d bytes were taken", n)
		}
	}
	grown := memory() - before
	t.Logf("floods left %d KiB", grown>>10)
	if grown > 16<<20 {
		t.Errorf("floods took %d bytes", grown)
	}
	b.answers(t, "after floods")
}
