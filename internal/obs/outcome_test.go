package obs_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// refused answers 403 with a code, as a store does whose policy changed meanwhile.
func refused(w http.ResponseWriter) {
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
}

// cut closes the connection of a request without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// changesOf are the calls of a store that change it.
func changesOf(s obs.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Put":            func(ctx context.Context) error { return s.Put(ctx, "k", []byte("x")) },
		"PutNew":         func(ctx context.Context) error { return s.PutNew(ctx, "k", []byte("x")) },
		"Delete":         func(ctx context.Context) error { return s.Delete(ctx, "k") },
		"Delete of many": func(ctx context.Context) error { return s.Delete(ctx, "k", "l") },
	}
}

// TestUncertainOutcomeIsKept: when the first try may have taken effect, no error of the
// last try hides that; and a first try that certainly had no effect leaves no doubt.
func TestUncertainOutcomeIsKept(t *testing.T) {
	answer := func(status int, doc string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, doc)
		}
	}
	for _, c := range []struct {
		name  string
		first func(http.ResponseWriter)
		doubt bool
	}{
		{"connection broke", cut, true},
		{"500", answer(500, ""), true},
		{"502 of a gateway", answer(502, "<html>bad gateway</html>"), true},
		{"503", answer(503, ""), true},
		{"504 of a gateway", answer(504, ""), true},
		{"408", answer(408, ""), true},
		{"499", answer(499, ""), true},
		{"400 damaged on its way", answer(400, "<Error><Code>BadDigest</Code></Error>"), false},
		{"409", answer(409, "<Error><Code>OperationAborted</Code></Error>"), false},
		{"429", answer(429, ""), false},
	} {
		calls := map[string]bool{"Put": true, "PutNew": true, "Delete": true, "Delete of many": true}
		for call := range calls {
			n := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if n++; n == 1 {
					c.first(w)
					return
				}
				refused(w)
			}))
			s := open(t, "s3://bucket?region=r&endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 5}})
			err := changesOf(s)[call](t.Context())
			if !errors.Is(err, obs.ErrAccess) || obs.Uncertain(err) != c.doubt {
				t.Errorf("%s, %s, then 403: %v: uncertain %v, want ErrAccess and %v", call, c.name, err, obs.Uncertain(err), c.doubt)
			}
			if obs.Hint(err) == "" {
				t.Errorf("%s, %s: no hint in %v", call, c.name, err)
			}
			server.Close()
		}
	}
}

// TestCertainFailures: a request that never reached a server has no unknown outcome.
func TestCertainFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for name, endpoint := range map[string]string{
		"refused": away, "no such host": "http://nowhere.invalid", "certificate": secure.URL,
	} {
		opts := obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 2}}
		s := open(t, "s3://bucket?region=r&endpoint="+endpoint, obs.WithTransport(opts, func(tr *http.Transport) { tr.Proxy = nil }))
		for call, do := range changesOf(s) {
			if err := do(t.Context()); err == nil || obs.Uncertain(err) {
				t.Errorf("%s of %s: %v: uncertain %v, want an error without doubt", call, name, err, obs.Uncertain(err))
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range []obs.Store{
		obs.Retry(obs.NewMemory(), obs.RetryPolicy{}),
		open(t, "file://"+t.TempDir(), obs.Options{Create: true}),
		open(t, "s3://bucket?region=r&endpoint="+away, obs.Options{Getenv: keys, Limiter: obs.NewLimiter(obs.Limits{})}),
	} {
		for call, do := range changesOf(s) {
			if err := do(ctx); !errors.Is(err, context.Canceled) || obs.Uncertain(err) {
				t.Errorf("%s of %s after the end of its context: %v: uncertain %v", call, s, err, obs.Uncertain(err))
			}
		}
	}
}

// TestUncertainThroughAllLayers: a context that ends while the
// request is under way, with limiter and observer around it.
func TestUncertainThroughAllLayers(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		<-release
	}))
	defer server.Close()
	defer close(release)
	var told error
	s := open(t, "s3://bucket?region=r&endpoint="+server.URL, obs.Options{
		Getenv: keys, Limiter: obs.NewLimiter(obs.Limits{}), Observe: func(e obs.Event) { told = e.Err },
	})
	for call, do := range changesOf(s) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-entered
			cancel()
		}()
		err := do(ctx)
		if !errors.Is(err, context.Canceled) || !obs.Uncertain(err) || !obs.Uncertain(told) {
			t.Errorf("%s: %v, and the observer got %v: both must be uncertain", call, err, told)
		}
		if errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("%s: %v blames the store", call, err)
		}
	}
}

// TestUncertainOfOtherStores: a store that marks no error is taken at the word of its class.
func TestUncertainOfOtherStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			first, last error
			after       bool
			want        bool
		}{
			{obs.ErrUnavailable, obs.ErrAccess, true, true},
			{obs.ErrUnavailable, obs.ErrUsage, false, true},
			{obs.ErrUnavailable, obs.ErrNoSpace, true, true},
			{obs.ErrAccess, obs.ErrAccess, false, false},
			// other bytes under the name: ours are not there
			{obs.ErrUnavailable, obs.ErrExists, false, false},
		} {
			for _, call := range []string{"Put", "PutNew", "Delete"} {
				f := obstest.NewFaulty(obs.NewMemory())
				f.Inject(obstest.Fault{Times: 1, Err: c.first, After: c.after})
				f.Inject(obstest.Fault{Nth: 1, Err: c.last})
				if errors.Is(c.last, obs.ErrExists) {
					f.Heal()
					f.Inject(obstest.Fault{Times: 1, Err: c.first})
					if err := f.Store.Put(t.Context(), "k", []byte("of others")); err != nil {
						t.Fatal(err)
					}
					if call == "Delete" {
						continue
					}
				}
				s := obs.Retry(f, obs.RetryPolicy{MaxElapsed: time.Minute})
				err := changesOf(s)[call](t.Context())
				if !errors.Is(err, c.last) || obs.Uncertain(err) != c.want {
					t.Errorf("%s: %v, then %v: %v: uncertain %v, want %v", call, c.first, c.last, err, obs.Uncertain(err), c.want)
				}
				if n := strings.Count(err.Error(), obs.ErrUncertain.Error()); n > 1 {
					t.Errorf("%v says it %d times", err, n)
				}
			}
		}
		// Reads have no outcome.
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{})
		if _, err := obs.Retry(f, obs.RetryPolicy{MaxAttempts: 2}).Stat(t.Context(), "k"); obs.Uncertain(err) {
			t.Errorf("a read is uncertain: %v", err)
		}
	})
}

// TestStoredButNotAsAsked: an object that the server stored in
// another way than the URL asks for is there.
func TestStoredButNotAsAsked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	s := open(t, "s3://bucket?region=r&encryption=kms&endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &once})
	if err := s.Put(t.Context(), "k", []byte("x")); !errors.Is(err, obs.ErrUsage) || !obs.Uncertain(err) {
		t.Errorf("stored in the clear: %v: uncertain %v", err, obs.Uncertain(err))
	}
}
