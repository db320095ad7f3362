package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"holdfast/agent/model"
)

// The contract's headers.
const (
	headerToken     = "X-Auth-Token"
	headerRequestID = "X-Request-Id"
)

// Exchange is one call that was answered, for metrics and audit. It holds no token and no body.
type Exchange struct {
	Start     time.Time
	Duration  time.Duration
	Method    string
	Route     string       // the pattern, such as /v1/instances/tasks/{task_id}; "" where none matched
	Remote    string       // address of the peer
	RequestID string       // "" where it was missing or had the wrong form
	Caller    model.Caller // zero where nobody was found
	Instances []string
	Task      string // that it made, or was about
	Report    uint64 // that it was about; 0: none
	Vault     string // the tenant whose vault it was about; "": none
	Command   bool   // it changes something, or was to
	Status    int    // of HTTP
	Code      string
	Reference string // shared by the answer and the log line after an internal failure
	Panicked  bool   // the internal failure was a panic, which was contained and logged
}

// Options of a handler. The zero value is usable.
type Options struct {
	// Log gets one line for each internal failure, with the reference
	// that the answer has. nil: none.
	Log *slog.Logger
	// Observe is called after each call, on its goroutine. nil: nobody looks.
	Observe func(Exchange)
	// Audit is called for each call of a Command route, once the answer is known and
	// before it is sent: so the audit has each answered call. nil: nobody keeps one.
	Audit func(Exchange)
	// Peer names the caller of the connection itself, by its certificate: it counts
	// where no token is sent. An error (that wraps ErrUnknownToken or
	// ErrAuthUnavailable) refuses the call, with or without a token. nil: tokens only.
	Peer func(*http.Request) (c model.Caller, found bool, err error)
	// Refuse tells why no call of a Command route is taken now; its error
	// is the answer. nil, or a nil error: such calls are taken.
	Refuse func() *Error
	// Requests is how many requests a second each caller may send over the network,
	// twice that at once, and each address ten times as many; 0 sets no limit.
	Requests float64
}

// handler serves a set of routes.
type handler struct {
	service Service
	auth    Authenticator // nil: whoever reaches the handler is an operator (unix socket)
	log     *slog.Logger
	observe func(Exchange)
	audit   func(Exchange)
	peer    func(*http.Request) (model.Caller, bool, error)
	refuses func() *Error
	mux     *http.ServeMux

	callers, addresses allowances
	streams            streams
}

// access is a route's demand on the caller's role.
type access int

const (
	toSee     access = iota // any role
	toCommand               // all but read-only
	toOperate               // operators only
)

// route is one call. do returns the data of the answer, nil for none.
type route struct {
	method, path string
	access       access
	do           func(h *handler, q *request) (any, error)
}

func newHandler(s Service, a Authenticator, o Options, routes []route) http.Handler {
	h := &handler{service: s, auth: a, log: o.Log, observe: o.Observe, audit: o.Audit, peer: o.Peer, refuses: o.Refuse, mux: http.NewServeMux()}
	h.callers.perSecond, h.addresses.perSecond = rate.Limit(o.Requests), rate.Limit(addressFactor*o.Requests)
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	allowed := map[string][]string{}
	for _, rt := range routes {
		allowed[rt.path] = append(allowed[rt.path], rt.method)
		h.mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			h.serve(w, r, rt.path, func(q *request) (any, error) {
				// the mux sends HEAD to GET, and a stream without a body helps nobody
				if r.Method != rt.method {
					return nil, notAllowed(w, r, []string{rt.method})
				}
				q.seen.Command = rt.access != toSee && rt.method != http.MethodGet
				if err := h.admit(q, rt.access); err != nil {
					return nil, err
				}
				if h.refuses != nil && q.seen.Command {
					if err := h.refuses(); err != nil {
						return nil, err
					}
				}
				return rt.do(h, q)
			})
		})
	}
	for p, methods := range allowed {
		h.mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			h.serve(w, r, p, func(*request) (any, error) {
				return nil, notAllowed(w, r, methods)
			})
		})
	}
	h.mux.HandleFunc("/", h.noRoute)
	return h
}

// ServeHTTP sends unclean paths to noRoute before the mux answers them with a redirect in HTML.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.Path; !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		h.noRoute(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

func notAllowed(w http.ResponseWriter, r *http.Request, methods []string) *Error {
	allow := strings.Join(methods, ", ")
	w.Header().Set("Allow", allow)
	return &Error{
		Status: http.StatusMethodNotAllowed, Code: CodeParameter,
		Msg: "method: " + Quote(r.Method) + " is not one of " + allow,
	}
}

func (h *handler) noRoute(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, "", func(*request) (any, error) {
		return nil, &Error{Status: http.StatusNotFound, Code: CodeParameter, Msg: "path: no such call " + Quote(r.URL.Path)}
	})
}

// serve runs one call and answers it, whatever happens in it.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, route string, do func(*request) (any, error)) {
	seen := &Exchange{Start: time.Now(), Method: r.Method, Route: route, Remote: r.RemoteAddr, Status: http.StatusOK, Code: CodeOK}
	q := &request{w: &response{ResponseWriter: w}, r: r, seen: seen}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares the very value too
				h.done(q)
				panic(p)
			}
			seen.Panicked = true
			h.fail(q, errors.New("panic"), "panic", p, "stack", string(debug.Stack()))
			h.done(q)
			if q.w.begun && q.streamed {
				panic(http.ErrAbortHandler) // a stream cut short must not look complete
			}
			return
		}
		h.done(q)
	}()
	data, err := do(q)
	switch {
	case err != nil:
		h.refuse(q, err)
	case !q.streamed:
		h.answer(q, http.StatusOK, CodeOK, messageOK, data)
	}
}

func (h *handler) done(q *request) {
	q.note()
	if h.observe != nil {
		h.observe(*q.seen)
	}
}

// admit checks the headers in the contract's order, finds the
// caller, and asks whether its role will do.
func (h *handler) admit(q *request, need access) error {
	var err error
	if q.id, err = requestID(q.r.Header, h.auth != nil); err != nil {
		return err
	}
	q.w.Header().Set(headerRequestID, q.id)
	if h.auth == nil {
		q.caller = operator(q.r)
		return nil
	}
	if !h.addresses.take(host(q.r), q.seen.Start) {
		return tooOften()
	}
	if q.caller, err = h.identify(q); err != nil {
		return err
	}
	if !h.callers.take(allowanceOf(q.caller), q.seen.Start) {
		return tooOften()
	}
	if !may(q.caller, need) {
		return Refuse(CodeNoPermission, "the role %s may not make this call", Quote(string(q.caller.Role)))
	}
	return nil
}

// identify tells who calls: whom the token says, or where there is none, whom the connection says.
func (h *handler) identify(q *request) (model.Caller, error) {
	if h.peer != nil {
		c, found, err := h.peer(q.r)
		if err != nil {
			return model.Caller{}, h.notKnown(q, err)
		}
		if found && len(q.r.Header.Values(headerToken)) == 0 {
			return c, nil
		}
	}
	token, err := oneHeader(q.r.Header, headerToken, CodeNoHeader)
	if err != nil {
		return model.Caller{}, err
	}
	if len(token) > MaxTokenBytes {
		return model.Caller{}, h.notKnown(q, model.ErrUnknownToken)
	}
	c, err := h.auth.Authenticate(context.WithValue(q.r.Context(), addressKey{}, host(q.r)), token)
	if err != nil {
		return model.Caller{}, h.notKnown(q, err)
	}
	c.Via = "token"
	return c, nil
}

// notKnown is the answer to an unknown caller, or a caller that can't be checked.
func (h *handler) notKnown(q *request, err error) error {
	switch {
	case errors.Is(err, model.ErrUnknownToken):
		return Refuse(CodeNoTenant, "x-auth-token: not valid, or its tenant does not exist")
	case errors.Is(err, model.ErrAuthTooOften): // no line in the log: whoever tries tokens would fill it
		return tooOften()
	case errors.Is(err, model.ErrAuthUnavailable):
		ref := newID()
		q.seen.Reference = ref
		h.log.Warn("caller not checked", "reference", ref, "request_id", q.id, "route", q.seen.Route, "error", err.Error())
		away := Refuse(CodeAuthAway, "the caller cannot be checked now, try again later; reference %s", ref)
		away.RetryAfter = retryAuth
		return away
	}
	return err
}

// may tells whether a caller may make a call that needs the access.
func may(c model.Caller, need access) bool {
	switch need {
	case toOperate:
		return c.Role == model.RoleOperator
	case toCommand:
		return c.Commands()
	default:
		return c.Commands() || c.Role == model.RoleReadOnly
	}
}

// oneHeader gives the only value of a header. Two values are a fault:
// which one would count depends on who reads, and proxies differ.
func oneHeader(h http.Header, name, codeMissing string) (string, error) {
	values := h.Values(name)
	lower := strings.ToLower(name)
	switch {
	case len(values) == 0 || len(values) == 1 && strings.TrimSpace(values[0]) == "":
		return "", Refuse(codeMissing, "%s: missing", lower)
	case len(values) > 1:
		return "", Refuse(CodeParameter, "%s: given %d times", lower, len(values))
	}
	return values[0], nil
}

// requestID gives x-request-id; where it is not required and missing, a new one.
func requestID(h http.Header, required bool) (string, error) {
	id, err := oneHeader(h, headerRequestID, CodeNoRequestID)
	if err != nil {
		if !required && len(h.Values(headerRequestID)) == 0 {
			return newID(), nil
		}
		return "", err
	}
	bad := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(id) > MaxRequestIDBytes || strings.ContainsFunc(id, bad) {
		return "", Refuse(CodeParameter, "x-request-id: must be 1 to %d visible ASCII characters, got %s", MaxRequestIDBytes, Quote(id))
	}
	return id, nil
}
