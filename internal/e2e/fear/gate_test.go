package fear_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// gate is the way of one process to MinIO. It pauses and kills the process at its
// requests, delays requests, loses answers, and gives old answers where the protocol allows that.
type gate struct {
	s       *stage
	address string
	process *process
	server  *http.Server
	under   sync.WaitGroup // requests
	serving chan struct{}  // closed when the server has ended
}

// way is the connections of all gates to MinIO.
var way = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}

// openGate lets the requests of a process through.
func openGate(p *process) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{s: p.s, address: l.Addr().String(), process: p, serving: make(chan struct{})}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(g.serving)
		if err := g.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			g.s.found("the gate at %s ended: %v", g.address, err)
		}
	}()
	return g, nil
}

// close returns when the store has answered all requests of the process, which has ended.
func (g *gate) close() {
	if err := g.server.Shutdown(context.Background()); err != nil {
		g.s.found("close the gate at %s: %v", g.address, err)
	}
	g.under.Wait() // of connections that the gate broke
	<-g.serving
}

// wanted is a request of a process to the store, in words of the vault.
type wanted struct {
	verb   string // put, get, head, list, delete
	folder string // below the vault's id, such as "packs"; "header" for others
	keys   []string
	body   []byte
}

func (w wanted) String() string { return w.verb + " " + w.folder }

// Chances of a pause before a request is sent, and after the answer has come. Requests that are not
// named have the chance of "".
var (
	before = map[string]float64{
		"put backups": 0.3, "delete backups": 0.25, "delete packs": 0.35, "put condemned": 0.15, "delete condemned": 0.2,
		"put sessions": 0.05, "delete sessions": 0.05, "put forgotten": 0.1, "delete forgotten": 0.15, "put holds": 0.1, "delete going": 0.1,
		"list sessions": 0.06, "list backups": 0.06, "list condemned": 0.08, "list going": 0.1, "head packs": 0.06, "": 0.005,
	}
	after = map[string]float64{
		"put backups": 0.15, "put sessions": 0.1, "put condemned": 0.1, "put packs": 0.05, "delete packs": 0.1, "list condemned": 0.1,
		"list sessions": 0.1, "list backups": 0.1, "head packs": 0.06, "head sessions": 0.15, "list going": 0.1, "": 0.005,
	}
)

// Chances of faults, for each request.
const (
	chanceOfKill   = 0.002
	chanceOfLate   = 0.01
	chanceOfLoss   = 0.005
	chanceOfRefuse = 0.005
	chanceOfOld    = 0.5 // where an old answer is allowed
	// chanceOfSleep is for a process at a request that others must not overtake: it sleeps until
	// they have.
	chanceOfSleep = 0.25
)

const slowDown = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`

// ServeHTTP answers one request.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.under.Add(1)
	defer g.under.Done()
	p := g.process
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the process died while it sent
	}
	want := g.read(r, body)
	g.s.trail.count("requests: " + want.String())
	// A list of all packs takes 256 requests, and disturbances at each of them would end every
	// prune.
	wild := p.wild && want.String() != "list packs"
	if wild {
		g.meet(p, want, before)
		switch {
		case p.chance(chanceOfRefuse):
			g.s.trail.count("requests refused")
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, slowDown)
			return
		case p.chance(chanceOfLate):
			g.s.trail.count("late requests")
			time.Sleep(p.between(50*time.Millisecond, 2*time.Second)) // also when the process has died
		}
	}
	a, err := g.answer(r, want)
	if err != nil || wild && p.chance(chanceOfLoss) {
		g.s.trail.count("lost answers")
		panic(http.ErrAbortHandler)
	}
	if wild {
		g.meet(p, want, after)
	}
	a.write(w, r)
}

// meet may pause or kill the process at a request.
func (g *gate) meet(p *process, want wanted, chances map[string]float64) {
	chance, named := chances[want.String()]
	if !named {
		chance = chances[""]
	}
	overtaken := slices.Contains([]string{"put backups", "delete packs", "delete index"}, want.String())
	switch {
	case p.chance(chanceOfKill):
		p.kill()
	case overtaken && p.chance(chanceOfSleep):
		p.oversleep()
	case p.chance(chance):
		p.pause(p.aWhile())
	}
}

// read finds out which objects a request is about.
func (g *gate) read(r *http.Request, body []byte) wanted {
	root := "/" + g.s.bucket + "/"
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(root, "/")), "/")
	want := wanted{keys: []string{key}, body: body}
	switch {
	case r.Method == http.MethodGet && key == "":
		want.verb, want.keys = "list", []string{r.URL.Query().Get("prefix")}
	case r.Method == http.MethodPost && r.URL.Query().Has("delete"):
		want.verb = "delete"
		var doc struct {
			Object []struct{ Key string }
		}
		want.keys = nil
		if err := xml.Unmarshal(body, &doc); err != nil {
			g.s.found("the gate can't read which objects are to be deleted: %v", err)
		}
		for _, o := range doc.Object {
			want.keys = append(want.keys, o.Key)
		}
	default:
		want.verb = strings.ToLower(r.Method)
	}
	want.folder = "header"
	if len(want.keys) > 0 {
		if parts := strings.Split(want.keys[0], "/"); len(parts) > 3 {
			want.folder = parts[2] // prefix, vault, folder
		}
	}
	return want
}

// answered is an answer of the store.
type answered struct {
	status int
	header http.Header
	body   []byte
}

func (a *answered) write(w http.ResponseWriter, r *http.Request) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body) // the process may have died
	}
}

// answer asks the store, and gives an old answer where that is allowed.
func (g *gate) answer(r *http.Request, want wanted) (*answered, error) {
	p, o := g.process, g.s.objects
	if want.verb == "delete" {
		o.deleting(want.keys)
	}
	a, err := g.forward(r, want.body)
	if err != nil {
		return nil, err
	}
	done := a.status < http.StatusMultipleChoices
	switch {
	case want.verb == "put" && done && want.folder == "packs":
		o.put(want.keys[0], len(want.body), a.header.Get("ETag"))
	case want.verb == "put" && done && want.folder == "sessions":
		p.mu.Lock()
		p.session = time.Now()
		p.mu.Unlock()
	case !p.wild || !p.chance(chanceOfOld):
	case want.verb == "head" && want.folder == "packs" && a.status == http.StatusNotFound:
		if old, is := o.old(want.keys[0], p.confirmed()); is {
			g.s.trail.count("old looks at packs")
			return old.look(a.header), nil
		}
	case want.verb == "list" && want.folder == "packs" && done:
		var n int
		if a.body, n = o.oldList(a.body, want.keys[0], p.confirmed()); n > 0 {
			g.s.trail.count("old lists of packs")
		}
	case want.verb == "list" && done:
		return g.oldList(r, a)
	}
	return a, nil
}

// oldList returns a list late: it lacks all objects that were put after it began, and objects that
// are deleted while it is on its way.
func (g *gate) oldList(r *http.Request, first *answered) (*answered, error) {
	p := g.process
	time.Sleep(p.between(0, 400*time.Millisecond))
	if p.chance(0.5) {
		return first, nil
	}
	second, err := g.forward(r, nil)
	if err != nil {
		return nil, err
	}
	both, n := inBoth(first.body, second.body)
	if n > 0 {
		g.s.trail.count("old lists")
	}
	first.body = both
	return first, nil
}

// confirmed is when the store last confirmed a session of the process.
func (p *process) confirmed() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

// forward sends a request to MinIO, also when the process that sent it has died.
func (g *gate) forward(r *http.Request, body []byte) (*answered, error) {
	back, err := url.Parse(g.s.minio.Endpoint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
	defer cancel()
	out := r.Clone(ctx)
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = back.Scheme, back.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	out.TransferEncoding = nil
	for _, name := range []string{"Connection", "Expect", "Accept-Encoding"} {
		out.Header.Del(name)
	}
	res, err := way.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	a := &answered{status: res.StatusCode, header: res.Header.Clone()}
	a.header.Del("Connection")
	a.body, err = io.ReadAll(res.Body)
	return a, err
}
