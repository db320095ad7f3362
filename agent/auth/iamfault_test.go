package auth_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// iamAnswer is an answer of a server that should be IAM.
type iamAnswer struct {
	status int
	kind   string // content type; "" is JSON, "-" is none
	header [2]string
	body   string
	raw    func(w http.ResponseWriter) // in place of all that
}

func (a iamAnswer) write(w http.ResponseWriter) {
	if a.raw != nil {
		a.raw(w)
		return
	}
	switch a.kind {
	case "":
		w.Header().Set("Content-Type", "application/json")
	case "-":
		w.Header()["Content-Type"] = nil
	default:
		w.Header().Set("Content-Type", a.kind)
	}
	if a.header[0] != "" {
		w.Header().Set(a.header[0], a.header[1])
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

const (
	goodToken = `{"token":{"user":{"id":"u1"},"project":{"id":"p1"},"expires_at":"2999-01-01T00:00:00.000000Z","roles":[{"name":"member"}]}}`
	page      = "<html><head><title>404</title></head><body>not found</body></html>"
)

func keystoneError(code int) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":"in words","title":"T"}}`, code)
}

// iamFaults are the misbehaviours of a server that should be IAM, each with the error
// for the caller. nil: the caller may come in.
var iamFaults = []struct {
	name   string
	answer iamAnswer
	want   error
}{
	{"a token", iamAnswer{body: goodToken}, nil},
	{"a token by a cache", iamAnswer{status: 203, body: goodToken}, nil},
	{"a token with unknown fields", iamAnswer{body: strings.Replace(goodToken, `{"token":{`, `{"more":1,"token":{"catalog":[{"x":null}],"audit_ids":null,"roles":null,`, 1)}, nil},
	{"a token with null roles", iamAnswer{body: strings.Replace(goodToken, `[{"name":"member"}]`, `[null,{"name":null},{}]`, 1)}, nil},
	{"a token of a domain", iamAnswer{body: strings.Replace(goodToken, `"project":{"id":"p1"}`, `"project":null,"domain":{"id":"p1"}`, 1)}, nil},
	{"a JSON type with a parameter", iamAnswer{kind: "application/json; charset=utf-8", body: goodToken}, nil},
	{"its own token in the header", iamAnswer{header: [2]string{"X-Subject-Token", "the-token"}, body: goodToken}, nil},

	{"unknown", iamAnswer{status: 404, body: keystoneError(404)}, model.ErrUnknownToken},
	{"unknown, by a cloud's own form", iamAnswer{status: 404, body: `{"error_code":"IAM.0004","error_msg":"x"}`}, model.ErrUnknownToken},
	{"expired", iamAnswer{body: strings.Replace(goodToken, "2999", "1999", 1)}, model.ErrUnknownToken},
	{"expired, in another zone", iamAnswer{body: strings.Replace(goodToken, "2999-01-01T00:00:00.000000Z", "1999-01-01T00:00:00+08:00", 1)}, model.ErrUnknownToken},
	{"of no project and no domain", iamAnswer{body: strings.Replace(goodToken, `"project":{"id":"p1"},`, "", 1)}, model.ErrUnknownToken},

	{"an empty document", iamAnswer{body: `{}`}, model.ErrAuthUnavailable},
	{"an empty body", iamAnswer{}, model.ErrAuthUnavailable},
	{"no content", iamAnswer{status: 204}, model.ErrAuthUnavailable},
	{"null", iamAnswer{body: `null`}, model.ErrAuthUnavailable},
	{"a list", iamAnswer{body: `[]`}, model.ErrAuthUnavailable},
	{"a string", iamAnswer{body: `"token"`}, model.ErrAuthUnavailable},
	{"a null token", iamAnswer{body: `{"token":null}`}, model.ErrAuthUnavailable},
	{"an empty token", iamAnswer{body: `{"token":{}}`}, model.ErrAuthUnavailable},
	{"a token that is a string", iamAnswer{body: `{"token":"x"}`}, model.ErrAuthUnavailable},
	{"no user", iamAnswer{body: strings.Replace(goodToken, `"user":{"id":"u1"},`, "", 1)}, model.ErrAuthUnavailable},
	{"a null user", iamAnswer{body: strings.Replace(goodToken, `{"id":"u1"}`, "null", 1)}, model.ErrAuthUnavailable},
	{"a user without an id", iamAnswer{body: strings.Replace(goodToken, `{"id":"u1"}`, "{}", 1)}, model.ErrAuthUnavailable},
	{"a user with an empty id", iamAnswer{body: strings.Replace(goodToken, "u1", "", 1)}, model.ErrAuthUnavailable},
	{"a user with a number", iamAnswer{body: strings.Replace(goodToken, `"u1"`, "7", 1)}, model.ErrAuthUnavailable},
	{"a user that is a list", iamAnswer{body: strings.Replace(goodToken, `{"id":"u1"}`, "[]", 1)}, model.ErrAuthUnavailable},
	{"a project without an id", iamAnswer{body: strings.Replace(goodToken, `{"id":"p1"}`, "{}", 1)}, model.ErrAuthUnavailable},
	{"a project with a null id beside a domain", iamAnswer{body: strings.Replace(goodToken, `{"id":"p1"}`, `{"id":null},"domain":{"id":"d"}`, 1)}, model.ErrAuthUnavailable},
	{"a project with a line break", iamAnswer{body: strings.Replace(goodToken, "p1", `p\n1`, 1)}, model.ErrAuthUnavailable},
	{"a project with a long id", iamAnswer{body: strings.Replace(goodToken, "p1", strings.Repeat("p", 300), 1)}, model.ErrAuthUnavailable},
	{"no expiry", iamAnswer{body: strings.Replace(goodToken, `"expires_at":"2999-01-01T00:00:00.000000Z",`, "", 1)}, model.ErrAuthUnavailable},
	{"a null expiry", iamAnswer{body: strings.Replace(goodToken, `"2999-01-01T00:00:00.000000Z"`, "null", 1)}, model.ErrAuthUnavailable},
	{"an empty expiry", iamAnswer{body: strings.Replace(goodToken, "2999-01-01T00:00:00.000000Z", "", 1)}, model.ErrAuthUnavailable},
	{"a zero expiry", iamAnswer{body: strings.Replace(goodToken, "2999", "0001", 1)}, model.ErrAuthUnavailable},
	{"an expiry without a zone", iamAnswer{body: strings.Replace(goodToken, ".000000Z", "", 1)}, model.ErrAuthUnavailable},
	{"an expiry as a number", iamAnswer{body: strings.Replace(goodToken, `"2999-01-01T00:00:00.000000Z"`, "32472144000", 1)}, model.ErrAuthUnavailable},
	{"roles that are none", iamAnswer{body: strings.Replace(goodToken, `[{"name":"member"}]`, `"admin"`, 1)}, model.ErrAuthUnavailable},
	{"the token of another", iamAnswer{header: [2]string{"X-Subject-Token", "another"}, body: goodToken}, model.ErrAuthUnavailable},
	{"a version document", iamAnswer{body: `{"version":{"id":"v3.14","status":"stable"}}`}, model.ErrAuthUnavailable},
	{"an error with 200", iamAnswer{body: keystoneError(404)}, model.ErrAuthUnavailable},
	{"cut off", iamAnswer{body: goodToken[:len(goodToken)-9]}, model.ErrAuthUnavailable},
	{"cut off in transit", iamAnswer{header: [2]string{"Content-Length", "9999"}, body: goodToken}, model.ErrAuthUnavailable},
	{"two documents", iamAnswer{body: goodToken + goodToken}, model.ErrAuthUnavailable},
	{"a page behind the document", iamAnswer{body: goodToken + page}, model.ErrAuthUnavailable},
	{"a byte order mark", iamAnswer{body: "\ufeff" + goodToken}, model.ErrAuthUnavailable},
	{"a page with 200", iamAnswer{kind: "text/html", body: page}, model.ErrAuthUnavailable},
	{"a page called JSON", iamAnswer{body: page}, model.ErrAuthUnavailable},
	{"a token called a page", iamAnswer{kind: "text/html", body: goodToken}, model.ErrAuthUnavailable},
	{"a token without a type", iamAnswer{kind: "-", body: goodToken}, model.ErrAuthUnavailable},
	{"huge", iamAnswer{body: strings.Replace(goodToken, "u1", strings.Repeat("u", 5<<20), 1)}, model.ErrAuthUnavailable},
	{"huge when unpacked", iamAnswer{raw: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(bytes.Repeat([]byte(" "), 64<<20))
		_ = z.Close()
	}}, model.ErrAuthUnavailable},
	{"deep", iamAnswer{body: strings.Repeat(`{"token":`, 20_000) + "1" + strings.Repeat("}", 20_000)}, model.ErrAuthUnavailable},
	{"a page of an ingress", iamAnswer{status: 404, kind: "text/html", body: page}, model.ErrAuthUnavailable},
	{"a word of an ingress", iamAnswer{status: 404, kind: "text/plain; charset=utf-8", body: "default backend - 404"}, model.ErrAuthUnavailable},
	{"an empty 404", iamAnswer{status: 404, kind: "-"}, model.ErrAuthUnavailable},
	{"another's 404 in JSON", iamAnswer{status: 404, body: `{"message":"no Route matched with those values"}`}, model.ErrAuthUnavailable},
	{"a 404 that says 500", iamAnswer{status: 404, body: keystoneError(500)}, model.ErrAuthUnavailable},
	{"a 404 with a null error", iamAnswer{status: 404, body: `{"error":null}`}, model.ErrAuthUnavailable},
	{"a page that asks to log in", iamAnswer{status: 401, kind: "text/html", body: page}, model.ErrAuthUnavailable},
	{"moved", iamAnswer{status: 301, header: [2]string{"Location", "/elsewhere"}}, model.ErrAuthUnavailable},
	{"found elsewhere", iamAnswer{status: 302, header: [2]string{"Location", "/elsewhere"}, body: goodToken}, model.ErrAuthUnavailable},
	{"moved, to be asked again", iamAnswer{status: 307, header: [2]string{"Location", "/elsewhere"}}, model.ErrAuthUnavailable},
	{"choices", iamAnswer{status: 300, body: `{"versions":{"values":[]}}`}, model.ErrAuthUnavailable},
	{"bad request", iamAnswer{status: 400, body: keystoneError(400)}, model.ErrAuthUnavailable},
	{"forbidden", iamAnswer{status: 403, body: keystoneError(403)}, model.ErrAuthUnavailable},
	{"gone", iamAnswer{status: 410, body: keystoneError(410)}, model.ErrAuthUnavailable},
	{"too many requests", iamAnswer{status: 429, header: [2]string{"Retry-After", "1"}, body: keystoneError(429)}, model.ErrAuthUnavailable},
	{"broken", iamAnswer{status: 500, body: keystoneError(500)}, model.ErrAuthUnavailable},
	{"a broken gateway", iamAnswer{status: 502, kind: "text/html", body: page}, model.ErrAuthUnavailable},
	{"away", iamAnswer{status: 503}, model.ErrAuthUnavailable},
	{"created", iamAnswer{status: 201, body: goodToken}, model.ErrAuthUnavailable},
	{"hung up", iamAnswer{raw: func(http.ResponseWriter) { panic(http.ErrAbortHandler) }}, model.ErrAuthUnavailable},
}

// fakeIAM answers look-ups as it is told, and logs the account in.
type fakeIAM struct {
	*httptest.Server
	answer atomic.Pointer[iamAnswer] // of a look-up
	login  atomic.Pointer[iamAnswer]
	logins atomic.Int64
	strays atomic.Int64 // requests to places that nobody named
}

var goodLogin = iamAnswer{
	status: 201, header: [2]string{"X-Subject-Token", "service"},
	body: `{"token":{"user":{"id":"s"},"project":{"id":"p"},"expires_at":"2999-01-01T00:00:00.000000Z","catalog":[]}}`,
}

func newFakeIAM(t testing.TB) *fakeIAM {
	f := &fakeIAM{}
	f.login.Store(&goodLogin)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.URL.Path != "/v3/auth/tokens":
			f.strays.Add(1)
		case r.Method == http.MethodPost:
			f.logins.Add(1)
			f.login.Load().write(w)
		default:
			f.answer.Load().write(w)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeIAM) verifier(t testing.TB, account *auth.Account) *auth.IAM {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	iam, err := auth.NewIAM(auth.IAMOptions{
		URL: f.URL + "/v3", Account: given(account), Client: &http.Client{Transport: transport}, Timeout: time.Minute,
		Lookups:  1_000_000,
		Roles:    map[string]auth.Mapping{"admin": {Role: model.RoleControlPlane}},
		Panicked: func(err error) { t.Errorf("a panic: %v\n%s", err, contain.Of(err).Stack) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return iam
}

// given is an account that does not change; nil for none.
func given(account *auth.Account) func() (*auth.Account, error) {
	if account == nil {
		return nil
	}
	return func() (*auth.Account, error) { return account, nil }
}

var validator = &auth.Account{User: "validator", Password: "verysecret", Domain: "Default", Project: "red"}

// TestIAMFaults gives each answer to a look-up. Nobody comes in on an
// answer that is none, nothing of it is remembered, and nothing panics.
func TestIAMFaults(t *testing.T) {
	f := newFakeIAM(t)
	for _, account := range []*auth.Account{nil, validator} {
		for _, c := range iamFaults {
			name := fmt.Sprintf("%s, account %v", c.name, account != nil)
			iam := f.verifier(t, account)
			f.answer.Store(&c.answer)
			got, err := iam.Authenticate(t.Context(), "the-token")
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %+v, %v, want %v", name, got, err, c.want)
				continue
			}
			if err == nil && got != (model.Caller{Tenant: "p1", User: "u1", Role: model.RoleTenant}) || err != nil && got != (model.Caller{}) {
				t.Errorf("%s: %+v", name, got)
			}
			if err != nil && (strings.Contains(err.Error(), "the-token") || strings.Contains(err.Error(), "in words") || strings.Contains(err.Error(), "html>") || len(err.Error()) > 400) {
				t.Errorf("%s: %v repeats what was sent or said", name, err)
			}
			if !errors.Is(err, model.ErrAuthUnavailable) {
				continue
			}
			f.answer.Store(&iamAnswer{body: goodToken})
			if _, err := iam.Authenticate(t.Context(), "the-token"); err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
			}
		}
		// 401 refuses a token that is asked about itself; else it refuses the account.
		iam := f.verifier(t, account)
		f.answer.Store(&iamAnswer{status: 401, body: keystoneError(401)})
		want := model.ErrUnknownToken
		if account != nil {
			want = model.ErrAuthUnavailable
		}
		if _, err := iam.Authenticate(t.Context(), "the-token"); !errors.Is(err, want) {
			t.Errorf("401, account %v: %v, want %v", account != nil, err, want)
		}
	}
	if n := f.strays.Load(); n > 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

// TestIAMLoginFaults gives each answer to the login of the account.
func TestIAMLoginFaults(t *testing.T) {
	f := newFakeIAM(t)
	f.answer.Store(&iamAnswer{body: goodToken})
	for _, c := range append(iamFaults[:len(iamFaults):len(iamFaults)], struct {
		name   string
		answer iamAnswer
		want   error
	}{"no token in the header", iamAnswer{status: 201, body: goodLogin.body}, nil}) {
		if c.answer.header[0] == "X-Subject-Token" {
			continue // that is a login
		}
		iam := f.verifier(t, validator)
		f.login.Store(&c.answer)
		_, err := iam.Authenticate(t.Context(), "the-token")
		if !errors.Is(err, model.ErrAuthUnavailable) || strings.Contains(err.Error(), "verysecret") || strings.Contains(err.Error(), "the-token") {
			t.Errorf("%s: %v", c.name, err)
		}
		f.login.Store(&goodLogin)
		if _, err := iam.Authenticate(t.Context(), "the-token"); err != nil {
			t.Errorf("%s: afterwards: %v", c.name, err)
		}
	}
}

// panicking is a way to IAM that panics.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("in the look-up") }

// TestIAMPanic: a panic in a look-up fails that look-up for all callers that wait for
// it, and is reported once.
func TestIAMPanic(t *testing.T) {
	var panics atomic.Int64
	var outcome atomic.Pointer[string]
	iam, err := auth.NewIAM(auth.IAMOptions{
		URL: "http://iam.test/v3", Client: &http.Client{Transport: panicking{}},
		Panicked: func(err error) {
			if contain.Of(err) == nil {
				t.Errorf("%v", err)
			}
			panics.Add(1)
		},
		Observe: func(o string) { outcome.Store(&o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := iam.Authenticate(t.Context(), "the-token"); !errors.Is(err, model.ErrAuthUnavailable) {
			t.Errorf("%v", err)
		}
		if panics.Load() != int64(n+1) || *outcome.Load() != auth.LookupUnavailable {
			t.Errorf("%d panics, outcome %s", panics.Load(), *outcome.Load())
		}
	}
}

// FuzzIAMAnswer: no answer of IAM causes a panic, and every admitted caller has a user
// and a tenant.
func FuzzIAMAnswer(f *testing.F) {
	for _, c := range iamFaults {
		if len(c.answer.body) < 10_000 {
			f.Add(max(c.answer.status, 200), "application/json", c.answer.body)
		}
	}
	server := newFakeIAM(f)
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		if status < 200 || status > 599 || strings.ContainsAny(kind, "\r\n\x00") {
			return
		}
		iam := server.verifier(t, nil)
		server.answer.Store(&iamAnswer{status: status, kind: kind, body: body})
		c, err := iam.Authenticate(t.Context(), "the-token")
		switch {
		case err == nil && (c.User == "" || c.Tenant == "" || c.Role == ""):
			t.Errorf("%+v came in", c)
		case err != nil && !errors.Is(err, model.ErrAuthUnavailable) && !errors.Is(err, model.ErrUnknownToken):
			t.Errorf("%v", err)
		}
	})
}
