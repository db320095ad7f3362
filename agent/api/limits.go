package api

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"holdfast/agent/model"
)

// Limits on a caller's requests.
const (
	// MaxBodyBytes is some hundred times what 100 ids take.
	MaxBodyBytes = 64 << 10
	// MaxInstances is the contract's limit on a batch.
	MaxInstances = 100
	// MaxRequestIDBytes holds any UUID or trace id; the id is kept in the journal.
	MaxRequestIDBytes = 128
	// MaxTokenBytes holds IAM's longest tokens (PKI form, about 8 KiB with many roles).
	MaxTokenBytes = 16 << 10
	// MaxExecuteMsgBytes is the contract's limit on execute_msg.
	MaxExecuteMsgBytes = 1024
	// maxTaskIDBytes is above the length of any id that the agent gives out.
	maxTaskIDBytes = 128
)

// retryAuth is when a caller may try again whose token could not be checked.
const retryAuth = 5 * time.Second

// Limits on how often and how much a caller asks.
const (
	// addressFactor is how many callers' worth of requests one address may send: a control plane
	// calls for many tenants, and what its tokens are is not known before they were looked at.
	addressFactor = 10
	// maxCallers bounds how many callers are remembered in each of two generations:
	// about 1 MB in all. Forgotten ones begin anew, with a full allowance.
	maxCallers = 4096
	// maxStreamsOfOne and maxStreamsOfAll bound event streams, which no time-out ends.
	maxStreamsOfOne = 16
	maxStreamsOfAll = 256
	// retrySoon is when one who asked too often may ask again.
	retrySoon = time.Second
)

// allowances holds a token bucket for each key. It is safe for concurrent use.
type allowances struct {
	perSecond rate.Limit // 0: no limit

	mu          sync.Mutex
	young, aged map[string]*rate.Limiter
}

// take takes one from the allowance of key, which fills up with perSecond and holds twice that.
func (a *allowances) take(key string, now time.Time) bool {
	if a.perSecond <= 0 {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.young[key]
	if l == nil {
		if l = a.aged[key]; l == nil {
			l = rate.NewLimiter(a.perSecond, max(int(2*a.perSecond), 1))
		}
		if len(a.young) >= maxCallers || a.young == nil {
			a.young, a.aged = map[string]*rate.Limiter{}, a.young
		}
		a.young[key] = l
	}
	return l.AllowN(now, 1)
}

// streams counts event streams by caller. It is safe for concurrent use.
type streams struct {
	mu  sync.Mutex
	of  map[string]int
	all int
}

// enter counts one more, or refuses it. leave is to be called at its end.
func (s *streams) enter(key string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[key] >= maxStreamsOfOne || s.all >= maxStreamsOfAll {
		return nil, Busy(retryAuth, "too many event streams are open")
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.of[key]++
	s.all++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.of[key]--; s.of[key] == 0 {
			delete(s.of, key)
		}
	}, nil
}

// allowanceOf names a caller for its limits.
func allowanceOf(c model.Caller) string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%s", c.Role, c.Tenant, c.User, c.Via)
}

// host is the address of the peer without its port.
func host(r *http.Request) string {
	if h, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return h
	}
	return r.RemoteAddr
}

// tooOften refuses a request beyond the allowance.
func tooOften() *Error { return Busy(retrySoon, "too many requests, try again later") }

// LimitConnections makes l hold at most total connections that were accepted from it,
// and at most each of one address, and tells srv to report which of them are at work.
// One connection too many closes the connection that has been waiting longest, for a
// handshake or between requests: a caller that only holds connections open loses them
// to callers that use theirs. Where all are at work, the new connection is closed.
func LimitConnections(srv *http.Server, l net.Listener, total, each int) net.Listener {
	c := &connections{Listener: l, total: total, each: each, open: map[*connection]bool{}}
	srv.ConnState = c.state
	return c
}

// connections is a listener that knows its open connections.
type connections struct {
	net.Listener
	total, each int

	mu   sync.Mutex
	open map[*connection]bool
	seq  uint64 // of changes of state
}

type connection struct {
	net.Conn
	of      *connections
	address string
	waiting bool   // not at work on a request; guarded by connections.mu
	since   uint64 // when that began, in changes of state
}

func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := conn.RemoteAddr().String()
		if h, _, err := net.SplitHostPort(address); err == nil {
			address = h
		}
		k := &connection{Conn: conn, of: c, address: address, waiting: true}
		victim, ok := c.admit(k)
		if victim != nil {
			_ = victim.Conn.Close()
		}
		if ok {
			return k, nil
		}
		_ = conn.Close()
	}
}

// admit counts k, if need be in the place of another, which the caller is to close.
func (c *connections) admit(k *connection) (victim *connection, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ofOne := 0
	var mine, others *connection
	older := func(a, b *connection) bool { return b.waiting && (a == nil || b.since < a.since) }
	for o := range c.open {
		if older(others, o) {
			others = o
		}
		if o.address != k.address {
			continue
		}
		ofOne++
		if older(mine, o) {
			mine = o
		}
	}
	switch {
	case ofOne >= c.each:
		victim = mine
	case len(c.open) >= c.total:
		victim = others
	}
	if victim == nil && (ofOne >= c.each || len(c.open) >= c.total) {
		return nil, false
	}
	if victim != nil {
		delete(c.open, victim)
	}
	c.seq++
	k.since = c.seq
	c.open[k] = true
	return victim, true
}

// The server calls state when a connection changes its state.
func (c *connections) state(conn net.Conn, s http.ConnState) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	k, ok := conn.(*connection)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	k.waiting, k.since = s == http.StateNew || s == http.StateIdle, c.seq
}

func (k *connection) Close() error {
	k.of.mu.Lock()
	delete(k.of.open, k)
	k.of.mu.Unlock()
	return k.Conn.Close()
}
