package proxytest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
)

// Op is a kind of request, as a Misbehaviour meets it.
type Op string

// The kinds of requests.
const (
	OpPut         Op = "put"
	OpGet         Op = "get"
	OpHead        Op = "head"
	OpList        Op = "list"
	OpDelete      Op = "delete"
	OpDeleteBatch Op = "delete batch"
)

// OpOf tells the kind of a request.
func OpOf(r *http.Request) Op {
	switch {
	case r.Method == http.MethodPut:
		return OpPut
	case r.Method == http.MethodHead:
		return OpHead
	case r.Method == http.MethodDelete:
		return OpDelete
	case r.Method == http.MethodPost:
		return OpDeleteBatch
	case keyOf(r) == "":
		return OpList
	}
	return OpGet
}

// Misbehaviour is one way in which servers, gateways and proxies
// were seen to answer otherwise than an object store does.
type Misbehaviour struct {
	Op    Op
	Fault string
	// Works tells that a store has to get along with it: all calls succeed.
	// Otherwise calls that meet it fail, and none succeeds with a wrong result.
	Works bool
	// V2 tells that only a list of version 2 shows it.
	V2 bool
	// Late tells that the server takes longer than a store's patience
	// (Options.Stall) of a quarter of a second.
	Late bool
	// Damages tells that bytes change on their way: the store reads other bytes than it
	// put, without an error.
	Damages bool

	wrap func(next http.Handler) http.Handler
}

// Name is the name of the misbehaviour in tests.
func (m *Misbehaviour) Name() string { return string(m.Op) + ": " + m.Fault }

// Handler makes a server that misbehaves in front of a sound one. Each Handler has a
// state of its own.
func (m *Misbehaviour) Handler(sound http.Handler) http.Handler { return m.wrap(sound) }

// answered is the answer of a sound server.
type answered struct {
	status int
	header http.Header
	body   string
}

func record(next http.Handler, r *http.Request) *answered {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return &answered{rec.Code, rec.Header(), rec.Body.String()}
}

func (a *answered) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	if r.Method != http.MethodHead {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, a.body)
	}
}

// always meets every request of a kind.
const always = 1 << 30

// meet lets f answer the requests of a kind with the numbers from first to last, counted from 1.
func meet(op Op, first, last int, f func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		var n atomic.Int64
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if OpOf(r) == op {
				if i := int(n.Add(1)); i >= first && i <= last {
					f(w, r, next)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// change lets f change the sound server's answer to every request of a kind.
func change(op Op, first, last int, f func(r *http.Request, a *answered)) func(http.Handler) http.Handler {
	return meet(op, first, last, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		f(r, a)
		a.write(w, r)
	})
}

// page answers with a document of others, without asking the sound server.
func page(op Op, first, last, status int, contentType, body string) func(http.Handler) http.Handler {
	return meet(op, first, last, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
	})
}

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// cutAnswer sends the half of a body, and closes the connection.
func cutAnswer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	a := record(next, r)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body[:len(a.body)/2])
	panic(http.ErrAbortHandler)
}

// stored gives another answer to a request that the sound server has carried out. A
// request that the sound server refuses keeps its answer.
func stored(op Op, first, last int, f func(w http.ResponseWriter)) func(http.Handler) http.Handler {
	return meet(op, first, last, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := record(next, r); a.status >= http.StatusMultipleChoices {
			a.write(w, r)
			return
		}
		f(w)
	})
}

// answers gives an error document.
func answers(status int, code string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { fault(w, status, code) }
}

// without hides a header of each request of a kind from the sound server.
func without(op Op, header string) func(http.Handler) http.Handler {
	return meet(op, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del(header)
		next.ServeHTTP(w, r)
	})
}

// refuses answers with an error where a request has a header.
func refuses(op Op, header string, status int, code string) func(http.Handler) http.Handler {
	return meet(op, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get(header) == "" {
			next.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fault(w, status, code)
	})
}

// query changes the parameters of a list before the sound server sees them.
func query(f func(w http.ResponseWriter, r *http.Request, q map[string][]string) bool) func(http.Handler) http.Handler {
	return meet(OpList, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		q := r.URL.Query()
		if f(w, r, q) {
			r.URL.RawQuery = q.Encode()
			next.ServeHTTP(w, r)
		}
	})
}

// replaced replaces a part of the answer to each request of a kind.
func replaced(op Op, first int, pairs ...string) func(http.Handler) http.Handler {
	return change(op, first, always, func(_ *http.Request, a *answered) { a.body = strings.NewReplacer(pairs...).Replace(a.body) })
}

// emptied is a body of nothing.
func emptied(_ *http.Request, a *answered) { a.body = "" }

// both applies one after the other.
func both(outer, inner func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return outer(inner(next)) }
}

// flip changes one bit of a body.
func flip(_ *http.Request, a *answered) {
	if body := []byte(a.body); len(body) > 0 {
		body[len(body)/2] ^= 1
		a.body = string(bytes.Clone(body))
	}
}
