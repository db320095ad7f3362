// Package webclient makes the HTTP clients by which the agent calls
// services that the configuration names: the receiver of reports, and IAM.
//
// A client trusts the authorities of a file, which it reads again when the file changes,
// finds connections that are dead, and follows no redirect. Callers close its idle
// connections at the end; net/http's own goroutines are the only ones. Nothing is written.
package webclient

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/reread"
)

// Bounds of a connection, each with its reason.
const (
	// DefaultPingAfter is how long a connection of HTTP/2 may be silent before it is
	// asked for a sign of life. A balancer that forgets a connection tells nobody.
	DefaultPingAfter = 15 * time.Second
	// DefaultPingTimeout is how long the sign of life may take: far
	// above the time of any network that works.
	DefaultPingTimeout = 10 * time.Second
	// dialTimeout and handshakeTimeout bound the steps before the first request.
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	// unackedTimeout ends a connection whose peer does not confirm the sent bytes, on the level
	// of TCP. Only this time-out finds a dead connection of HTTP/1.1, which has no pings.
	unackedTimeout = 30 * time.Second
	idleTimeout    = time.Minute
)

// Options say whom a client trusts, and how long it waits.
type Options struct {
	CAFile string // PEM; "" trusts the system's authorities
	// AnswerTimeout bounds the time from a request to the header of its answer.
	AnswerTimeout time.Duration
	// Connections that are idle and kept; at least 1.
	Connections int
	// PingAfter and PingTimeout: see DefaultPingAfter and DefaultPingTimeout, which 0 stands for.
	PingAfter, PingTimeout time.Duration
}

// New returns a client. It reads the file of authorities, which must be right; when the file
// changes later, new connections trust the authorities that it holds then, and the client
// uses open connections no more. While the file is no good each request fails and says so: an
// operator may have edited it to withdraw trust. Close the client with CloseIdleConnections.
func New(o Options) (*http.Client, error) {
	if o.PingAfter == 0 {
		o.PingAfter = DefaultPingAfter
	}
	if o.PingTimeout == 0 {
		o.PingTimeout = DefaultPingTimeout
	}
	var paths []string
	if o.CAFile != "" {
		paths = append(paths, o.CAFile)
	}
	t := &transport{made: reread.New(nil, func() (*http.Transport, error) { return newTransport(o) }, paths...)}
	if _, err := t.made.Get(); err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func newTransport(o Options) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities: %s holds no certificate in PEM form", o.CAFile)
		}
	}
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: DefaultPingAfter, Interval: 5 * time.Second, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				// Where the kernel does not know it, the time-outs of requests still hold.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTimeout.Milliseconds()))
			})
		},
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   max(1, o.Connections),
		IdleConnTimeout:       idleTimeout,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: o.AnswerTimeout,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: o.PingAfter, PingTimeout: o.PingTimeout, WriteByteTimeout: o.PingAfter + o.PingTimeout,
		},
	}, nil
}

// transport sends each request by the transport that was made of the
// file of authorities as it is now. It is safe for concurrent use.
type transport struct {
	made *reread.Files[*http.Transport]

	mu           sync.Mutex
	current, old *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	now, err := t.made.Get()
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	t.mu.Lock()
	if t.current != now {
		t.close()
		t.old, t.current = t.current, now
		t.close()
	}
	t.mu.Unlock()
	return now.RoundTrip(r)
}

// CloseIdleConnections is called by http.Client's method of that name.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
}

// close closes idle connections. Requests of the transport before the current one may be under
// way when that is replaced, so close looks at it again later. The caller holds the lock.
func (t *transport) close() {
	for _, one := range []*http.Transport{t.old, t.current} {
		if one != nil {
			one.CloseIdleConnections()
		}
	}
}
