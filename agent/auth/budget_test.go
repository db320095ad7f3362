package auth_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
)

// A flood of made-up tokens reaches IAM only as often as is configured, a quarter of that
// from one address, and keeps callers with valid tokens from other addresses not out.
func TestMadeUpTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		outcomes := map[string]int{}
		iam, err := auth.NewIAM(auth.IAMOptions{
			URL: "http://iam.test/v3", Lookups: 20, Observe: func(o string) { outcomes[o]++ },
			Client: &http.Client{Transport: answering(func(r *http.Request) (*http.Response, error) {
				token := r.Header.Get("X-Subject-Token")
				if token[0] == 'v' {
					return iamAnswer{body: fmt.Sprintf(`{"token":{"expires_at":%q,"user":{"id":"u"},"project":{"id":"p"}}}`,
						time.Now().Add(time.Hour).UTC().Format(time.RFC3339))}.response(), nil
				}
				asked.Add(1)
				return iamAnswer{status: 404, body: `{"error":{"code":404}}`}.response(), nil
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		try := func(address, kind string) error {
			n++
			_, err := iam.Authenticate(auth.WithAddress(t.Context(), address), fmt.Sprint(kind, n))
			return err
		}
		// A hundred a second for a hundred seconds, from one address.
		for second := range 100 {
			for range 100 {
				if err := try("198.51.100.7", "made-up"); !errors.Is(err, model.ErrUnknownToken) && !errors.Is(err, model.ErrAuthTooOften) {
					t.Fatal(err)
				}
			}
			if err := try("192.0.2.1", "valid"); err != nil {
				t.Fatalf("in second %d a caller with a valid token: %v", second, err)
			}
			time.Sleep(time.Second)
		}
		if got := asked.Load(); got < 300 || got > 100*5+100 {
			t.Errorf("IAM was asked %d times about tokens from one address in a hundred seconds", got)
		}
		if outcomes[auth.LookupNotAsked] < 9_000 || outcomes[auth.LookupValid] != 100 {
			t.Errorf("%v", outcomes)
		}
		// From many addresses.
		asked.Store(0)
		for range 100 {
			for a := range 50 {
				_ = try(fmt.Sprint("203.0.113.", a), "made-up")
			}
			time.Sleep(time.Second)
		}
		if got := asked.Load(); got > 100*20+100 {
			t.Errorf("IAM was asked %d times in a hundred seconds", got)
		}
		// Valid tokens cost nothing, however many come at once.
		time.Sleep(time.Minute)
		for range 1000 {
			if err := try("192.0.2.1", "valid"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// response is the answer without a network.
func (a iamAnswer) response() *http.Response {
	w := httptest.NewRecorder()
	a.write(w)
	return w.Result()
}

// answering answers without a network.
type answering func(*http.Request) (*http.Response, error)

func (f answering) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The account is asked for before each look-up: a new password
// counts at once, and a file that is no good lets nobody new in.
func TestAccountChanges(t *testing.T) {
	f := newFakeIAM(t)
	f.answer.Store(&iamAnswer{body: goodToken})
	account, fault := *validator, error(nil)
	iam, err := auth.NewIAM(auth.IAMOptions{
		URL: f.URL + "/v3", Timeout: time.Minute, Account: func() (*auth.Account, error) { a := account; return &a, fault },
	})
	if err != nil {
		t.Fatal(err)
	}
	logins := func() int64 { return f.logins.Load() }
	look := func(token string) error { _, err := iam.Authenticate(t.Context(), token); return err }
	for i := range 3 {
		if err := look(fmt.Sprint("one-", i)); err != nil || logins() != 1 {
			t.Fatalf("%v, %d logins", err, logins())
		}
	}
	account.Password = "another"
	for i := range 3 {
		if err := look(fmt.Sprint("two-", i)); err != nil || logins() != 2 {
			t.Fatalf("after the change: %v, %d logins", err, logins())
		}
	}
	fault = errors.New("mode 0644 lets others read it")
	if err := look("three"); !errors.Is(err, model.ErrAuthUnavailable) {
		t.Errorf("a file that is no good: %v", err)
	}
	if err := look("one-1"); err != nil {
		t.Errorf("a token that is remembered: %v", err)
	}
}
