package fleet_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

// storeGate is the way of one host to the store.
type storeGate struct {
	gate
	endpoint string       // http://host:port
	changes  atomic.Int64 // requests that would change something
}

// storeModes are the ways in which a store, or the way to it, is not well.
var storeModes = []string{"503", "slow", "cut upload", "cut download", "lost answer", "hangs", "500", "404 page", "403 page"}

const slowDown = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`

func startStoreGate(f *fleet, address string) *storeGate {
	l, err := net.Listen("tcp", address+":0")
	must(f.t, err)
	g := &storeGate{endpoint: "http://" + l.Addr().String()}
	back, err := url.Parse(f.minio.Endpoint)
	must(f.t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}
	f.t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(back)
			r.Out.Host = r.In.Host // the signature covers it
		},
		ModifyResponse: func(res *http.Response) error {
			switch mode := g.get(); {
			case mode == "lost answer" && res.Request.Method != http.MethodGet:
				return errLost
			case mode == "cut download" && res.Request.Method == http.MethodGet && res.ContentLength > 1:
				res.Body = &cutBody{res.Body, res.ContentLength / 2}
			}
			return nil
		},
		// Whatever fails behind the gate is a connection that ends.
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	serve(f, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			g.changes.Add(1)
		}
		mode := g.get()
		if mode != "" {
			f.trail.count("store requests met by " + mode)
		}
		say := func(status int, kind, text string) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
		switch mode {
		case "503":
			say(http.StatusServiceUnavailable, "application/xml", slowDown)
			return
		case "500":
			say(http.StatusInternalServerError, "text/html", page)
			return
		case "404 page":
			say(http.StatusNotFound, "text/html", page)
			return
		case "403 page":
			say(http.StatusForbidden, "text/html", page)
			return
		case "slow":
			sleep(r.Context(), 700*time.Millisecond)
		case "hangs":
			for g.get() == "hangs" && r.Context().Err() == nil {
				sleep(r.Context(), 200*time.Millisecond)
			}
			panic(http.ErrAbortHandler)
		case "cut upload":
			if r.Method == http.MethodPut {
				_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
				panic(http.ErrAbortHandler)
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	return g
}

type lostError struct{}

func (lostError) Error() string { return "the answer is lost" }

var errLost = lostError{}

// cutBody ends in an error after so many bytes.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
