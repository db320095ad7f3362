package obs

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/minio/minio-go/v7/pkg/signer"
)

const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// stallTimeout is how long a connection may move no byte in either direction, and how long a
	// server may think about a request at the first try. OBS answers the PUT of a pack in seconds.
	stallTimeout = 60 * time.Second
	// idleTimeout is shorter than servers hold idle connections, so
	// that a request does not meet a closing one.
	idleTimeout = 30 * time.Second
	// idleConnections covers the uploads that run at once, so that each finds its connection again.
	idleConnections = 64
	// connectionBuffer halves the system calls of a large put against
	// the default of 4 KiB, in bytes.
	connectionBuffer = 128 << 10
)

// newTransport makes the connections of one store. A connection on
// which nothing moves for stall fails. A limiter may be nil.
func newTransport(o connectOptions, stall time.Duration, l *Limiter) *http.Transport {
	dialer := &net.Dialer{Timeout: o.dial, KeepAlive: 30 * time.Second}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, o.network(network), address)
			if err != nil {
				return nil, err
			}
			c := &stallConn{Conn: conn, stall: stall}
			if tcp, ok := conn.(*net.TCPConn); ok && l != nil {
				c.buffer = &receiveBuffer{tcp: tcp, down: &l.down}
			}
			return c, nil
		},
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   tlsTimeout,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          idleConnections,
		MaxIdleConnsPerHost:   idleConnections,
		IdleConnTimeout:       idleTimeout,
		WriteBufferSize:       connectionBuffer,
		ReadBufferSize:        connectionBuffer,
		DisableCompression:    true, // objects are sealed, and their bytes are to come as they are
	}
	o.apply(tr)
	return tr
}

// stallConn fails when a connection takes no byte for a while. How
// long an answer may take is up to its request.
type stallConn struct {
	net.Conn
	stall  time.Duration
	buffer *receiveBuffer // or nil
}

func (c *stallConn) Read(p []byte) (int, error) {
	if c.buffer != nil {
		c.buffer.follow()
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// The receive buffer of a connection is limited while the rate is limited: otherwise
// the kernel receives megabytes ahead of the reader on each of many connections, so the
// traffic on the line exceeds a limit that holds back the reader alone.
const (
	// bufferShare is the part of a second's rate that a connection may be ahead: one alone still
	// fills the line when an answer takes 15 ms, and twenty are ahead by a third of a second.
	bufferShare = 64
	minBuffer   = 16 << 10
	// also the size that is set when the limit is lifted; the kernel's default is less,
	// and grows by itself in new connections
	maxBuffer = 4 << 20
)

// receiveMost is the largest receive buffer that may be asked for
// (socket(7), rmem_max), or Linux's default where that is not told.
var receiveMost = sync.OnceValue(func() int {
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if n, nerr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && nerr == nil {
		return n
	}
	return 212992
})

// receiveBuffer keeps the kernel's buffer of a connection in
// proportion to a limit. It is for the goroutine that reads.
type receiveBuffer struct {
	tcp  *net.TCPConn
	down *pacer
	size int // that was set; 0 is the kernel's own
}

func (b *receiveBuffer) follow() {
	size := b.down.ahead()
	if size > receiveMost() {
		// the largest buffer that the kernel would give is less than the rate needs,
		// and the kernel's own choice grows beyond it
		size = 0
	}
	if size == 0 && b.size != 0 {
		size = maxBuffer
	}
	if size != b.size {
		b.size = size
		_ = b.tcp.SetReadBuffer(size) // without it more is received ahead, no more
	}
}

// stalled tells whether err is the end of a connection on which nothing moved.
func stalled(err error) bool {
	var timeout net.Error
	return errors.Is(err, errDrips) || errors.As(err, &timeout) && timeout.Timeout()
}

// answer keeps the facts about the last answer to a call that the client library drops:
// its headers and the time when it came.
type answer struct {
	mu     sync.Mutex
	header http.Header
	at     time.Time
	key    string // the access key that signed the request
	acted  bool   // a request may have changed the store
}

type answerKey struct{}

func (a *answer) set(req *http.Request, res *http.Response) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.header, a.at = res.Header.Clone(), time.Now()
	_, rest, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	a.key, _, _ = strings.Cut(rest, "/")
}

// outcome notes how a request ended that changes the store. It certainly changed
// nothing only when it got no connection, or when the server refused it.
func (a *answer) outcome(connected bool, res *http.Response, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.acted = a.acted || connected
	case res.StatusCode == http.StatusRequestTimeout || res.StatusCode == statusClientClosed:
		a.acted = true // a gateway may say so after it passed the request on
	case res.StatusCode >= http.StatusMultipleChoices && res.StatusCode < http.StatusInternalServerError,
		res.StatusCode == http.StatusNotImplemented:
	default:
		a.acted = true
	}
}

// mayHaveActed tells whether a request of the call may have changed the store.
func (a *answer) mayHaveActed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acted
}

// statusClientClosed is nginx's status when the other side went away.
const statusClientClosed = 499

// signedWith is the access key of the request.
func (a *answer) signedWith() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.key
}

// get is a header of the answer.
func (a *answer) get(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header.Get(name)
}

// either is a header of the answer under its OBS name or under its S3 name.
func (a *answer) either(name string) string {
	if v := a.get("X-Obs-" + name); v != "" {
		return v
	}
	return a.get("X-Amz-" + name)
}

// retryAfter is how long the server asked to wait; 0 where it said nothing.
func (a *answer) retryAfter() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return retryAfter(a.header.Get("Retry-After"), a.at)
}

// skew is by how much the server's clock is ahead of this host's; 0 where it did not tell its time.
func (a *answer) skew() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return 0
	}
	return date.Sub(a.at)
}

// extraKey is the key of a context's value that holds headers which the client library can't set.
type extraKey struct{}

// queryKey is the key of a context's value that holds parameters which the client
// library can't set.
type queryKey struct{}

// extraTransport adds both and signs the request again, since a store takes them only
// when they are signed. A payload is not part of the signature (UNSIGNED-PAYLOAD).
type extraTransport struct {
	next   http.RoundTripper
	creds  *credentials.Credentials
	region string
}

func (t extraTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	extra, ok := req.Context().Value(extraKey{}).(http.Header)
	query, more := req.Context().Value(queryKey{}).(url.Values)
	if !ok && !more {
		return t.next.RoundTrip(req)
	}
	keys, err := t.creds.GetWithContext(&credentials.CredContext{Context: req.Context()})
	if err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	for name, values := range extra {
		again.Header[name] = values
	}
	withDocument(again)
	if more {
		q := again.URL.Query()
		maps.Copy(q, query)
		again.URL.RawQuery = s3utils.QueryEncode(q)
	}
	again.Header.Del("Authorization")
	return t.next.RoundTrip(signer.SignV4(*again, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, regionOf(req, t.region)))
}

// regionOf is the region that a request is signed for: the store's region, or the
// region that the client library found out.
func regionOf(req *http.Request, region string) string {
	if region != "" {
		return region
	}
	_, scope, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	if parts := strings.Split(scope, "/"); len(parts) > 2 {
		return parts[2]
	}
	return region
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
