package webclient_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/testbed"
	"holdfast/internal/webclient"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// patience is far above the time of any step here.
const patience = time.Minute

// server speaks HTTP/2 over TLS.
func server(t *testing.T) (s *httptest.Server, authorities []byte) {
	t.Helper()
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Spoken", r.Proto)
	}))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, o webclient.Options) *http.Client {
	t.Helper()
	c, err := webclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// ask makes a request that itself would wait for far longer than the test.
func ask(t *testing.T, c *http.Client, url string) (spoken string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("no answer, and no error"))
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			t.Fatal(context.Cause(ctx))
		}
		return "", err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Spoken"), nil
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

// balancer passes connections on until it forgets them: then they
// stay open, and nothing goes through them any more.
type balancer struct {
	net.Listener
	mu      sync.Mutex
	conns   []net.Conn
	forgets chan struct{} // closed when the connections so far are forgotten
	all     sync.WaitGroup
}

func balance(t *testing.T, to string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l, forgets: make(chan struct{})}
	b.all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			b.mu.Lock()
			b.conns = append(b.conns, in, out)
			forgets := b.forgets
			b.mu.Unlock()
			b.all.Go(func() { pass(in, out, forgets) })
			b.all.Go(func() { pass(out, in, forgets) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			_ = c.Close()
		}
		b.mu.Unlock()
		b.all.Wait()
	})
	return b
}

func pass(to, from net.Conn, forgets <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-forgets: // discard the bytes that come
		default:
			if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
				_ = to.Close()
			}
		}
		if err != nil {
			return
		}
	}
}

func (b *balancer) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.forgets)
	b.forgets = make(chan struct{})
}

// A connection that a balancer has forgotten fails its request long before the
// request's own time is over, and the next request goes over another connection.
func TestDeadConnectionIsNoticed(t *testing.T) {
	s, authorities := server(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, authorities)
	b := balance(t, s.Listener.Addr().String())
	url := "https://" + b.Addr().String()
	c := client(t, webclient.Options{CAFile: ca, AnswerTimeout: time.Hour, PingAfter: 200 * time.Millisecond, PingTimeout: 200 * time.Millisecond})
	var spoken string
	eventually(t, "a first answer", func() bool {
		var err error
		spoken, err = ask(t, c, url)
		return err == nil
	})
	if spoken != "HTTP/2.0" {
		t.Fatalf("the server was spoken to in %s", spoken)
	}
	for range 2 {
		b.forget()
		// At once, while the connection still seems good.
		if _, err := ask(t, c, url); err != nil {
			t.Logf("the dead connection: %v", err)
		}
		eventually(t, "an answer over another connection", func() bool {
			_, err := ask(t, c, url)
			return err == nil
		})
	}
}

// The file of authorities counts as it is now, for connections that
// are open too, and while it is no good nobody is trusted.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	s, own := server(t)
	other, _ := pem.Decode(own)
	other.Bytes = otherCertificate(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, own)
	c := client(t, webclient.Options{CAFile: ca, AnswerTimeout: time.Hour})
	if _, err := ask(t, c, s.URL); err != nil {
		t.Fatal(err)
	}
	fails := func(what, words string) {
		t.Helper()
		eventually(t, what, func() bool {
			_, err := ask(t, c, s.URL)
			return err != nil && strings.Contains(err.Error(), words)
		})
	}
	write(t, ca, pem.EncodeToMemory(other))
	fails("another authority is trusted", "unknown authority")
	write(t, ca, []byte("no certificate"))
	fails("a broken file", ca+" holds no certificate")
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	fails("no file", "no such file")
	write(t, ca, own)
	eventually(t, "the first authority is trusted again", func() bool {
		_, err := ask(t, c, s.URL)
		return err == nil
	})
	if _, err := webclient.New(webclient.Options{CAFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a client was made without its authorities")
	}
}
