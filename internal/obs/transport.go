package obs

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// stallTimeout is how long a connection may move no byte in either direction, and how long a
	// server may think about a whole request. OBS answers the PUT of a pack in seconds.
	stallTimeout = 60 * time.Second
	// idleTimeout is shorter than servers hold idle connections, so that a request does not meet a closing one.
	idleTimeout = 30 * time.Second
	// idleConnections covers the uploads that run at once, so that each finds its connection again.
	idleConnections = 64
	// connectionBuffer halves the system calls of a large put against the default of 4 KiB, in bytes.
	connectionBuffer = 128 << 10
)

// newTransport makes the connections of one store. A connection on which nothing moves for stall fails.
func newTransport(stall time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{conn, stall}, nil
		},
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: stall,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          idleConnections,
		MaxIdleConnsPerHost:   idleConnections,
		IdleConnTimeout:       idleTimeout,
		WriteBufferSize:       connectionBuffer,
		ReadBufferSize:        connectionBuffer,
		DisableCompression:    true, // objects are sealed, and their bytes are to come as they are
	}
}

// stallConn fails when a connection moves no byte for a while. Writing also puts off the end of a read
// that waits meanwhile for the answer.
type stallConn struct {
	net.Conn
	stall time.Duration
}

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// retryHint carries the server's Retry-After past the client, which drops it.
type retryHint struct{ after atomic.Int64 }

type retryHintKey struct{}

func (h *retryHint) get() time.Duration { return time.Duration(h.after.Load()) }

// hintTransport notes Retry-After in the context's retryHint.
type hintTransport struct{ next http.RoundTripper }

func (t hintTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err == nil {
		if h, ok := req.Context().Value(retryHintKey{}).(*retryHint); ok {
			h.after.Store(int64(retryAfter(res.Header.Get("Retry-After"), time.Now())))
		}
	}
	return res, err
}

// retryAfter reads the header in both its forms: seconds, and an instant.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 && seconds < 1<<31 {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
