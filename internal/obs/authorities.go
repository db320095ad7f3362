package obs

import (
	"net/http"
	"sync"

	"holdfast/internal/reread"
)

// authorities sends each request by the transport that was made of the file of authorities
// as it is now, and none while the file is no good. It is safe for concurrent use.
type authorities struct {
	made *reread.Files[*afreshTransport]

	mu      sync.Mutex
	current *afreshTransport
}

// newAuthorities has build make a transport now, and again when the file changes.
func newAuthorities(o connectOptions, build func(connectOptions) *http.Transport) *authorities {
	return &authorities{made: reread.New(nil, func() (*afreshTransport, error) {
		roots, err := rootsFrom(o.caFile)
		if err != nil {
			return nil, err
		}
		now := o
		now.roots = roots
		made := newAfreshTransport(build(now))
		return &made, nil
	}, o.caFile)}
}

func (a *authorities) RoundTrip(req *http.Request) (*http.Response, error) {
	now, err := a.made.Get()
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	a.mu.Lock()
	if old := a.current; old != now {
		a.current = now
		if old != nil {
			// Connections that are at work are closed when they are done:
			// the transport keeps none until it is asked for one again.
			old.next.CloseIdleConnections()
		}
	}
	a.mu.Unlock()
	return now.RoundTrip(req)
}

func (a *authorities) closeIdle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil {
		a.current.next.CloseIdleConnections()
	}
}
