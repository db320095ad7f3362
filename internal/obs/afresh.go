package obs

import (
	"context"
	"net/http"
	"sync"
)

// ErrDamagedOnWay says that bytes arrived damaged over one connection and whole over another,
// so a device or program between this host and the store changes the data that passes through
// it. Only an Observer gets this error, together with the read that arrived damaged.
var ErrDamagedOnWay = newClass(nil, "bytes were damaged on their way from the store", "look at what stands between this host and the "+
	"store (a proxy, a gateway, a network card that computes check sums), since not all damage is found")

// afreshKey is the key of a context's mark that its requests get a connection of their own.
type afreshKey struct{}

// Afresh returns a context whose requests go over new connections, which no other request
// uses. A caller uses it to read an object again after the first read arrived damaged.
func Afresh(ctx context.Context) context.Context { return context.WithValue(ctx, afreshKey{}, true) }

// afreshTransport gives requests of such contexts a connection of their own.
type afreshTransport struct {
	next  *http.Transport
	fresh func() *http.Transport
}

func newAfreshTransport(next *http.Transport) afreshTransport {
	return afreshTransport{next, sync.OnceValue(func() *http.Transport {
		tr := next.Clone()
		tr.DisableKeepAlives = true
		return tr
	})}
}

func (t afreshTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Value(afreshKey{}) != nil {
		return t.fresh().RoundTrip(req)
	}
	return t.next.RoundTrip(req)
}

// damageTeller is a store of this package with an observer, or around one.
type damageTeller interface{ tellDamage(key string) }

// TellDamage tells the observer of a store that an object came
// damaged over one connection and whole over another.
func TellDamage(s Store, key string) {
	if t, ok := s.(damageTeller); ok {
		t.tellDamage(key)
	}
}

func (r *retrying) tellDamage(key string) { TellDamage(r.Store, key) }
func (s *limited) tellDamage(key string)  { TellDamage(s.Store, key) }
func (o *observed) tellDamage(key string) {
	o.observe(Event{Op: opRead, Key: key, Err: ErrDamagedOnWay})
}
