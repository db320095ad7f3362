package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

// front is a proxy before Keystone that counts, and can be away.
type front struct {
	*httptest.Server
	calls atomic.Int64
	away  atomic.Bool
	slow  atomic.Int64 // nanoseconds
}

func newFront(t *testing.T, k *testbed.Keystone) *front {
	target, err := url.Parse(strings.TrimSuffix(k.URL, "/v3"))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.calls.Add(1)
		time.Sleep(time.Duration(f.slow.Load()))
		if f.away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// TestIAM asks a real Keystone, by itself and with a service account.
func TestIAM(t *testing.T) {
	k := testbed.StartKeystone(t)
	red, blue := k.Project("red"), k.Project("blue")
	alice, bob := k.User("alice", "a", red, "member"), k.User("bob", "b", blue, "member")
	k.User("plane", "p", blue, "admin")
	k.User("validator", "v", red, "admin")
	f := newFront(t, k)
	for _, account := range []*auth.Account{nil, {User: "validator", Password: "v", Domain: "Default", Project: "red"}} {
		t.Run(fmt.Sprintf("account=%v", account != nil), func(t *testing.T) {
			var ahead atomic.Int64
			var mu sync.Mutex
			outcomes := map[string]int{}
			iam, err := auth.NewIAM(auth.IAMOptions{
				URL: f.URL + "/v3", Account: given(account), Roles: map[string]auth.Mapping{"admin": {Role: model.RoleControlPlane}},
				Now:     func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
				Timeout: time.Minute, // Keystone is slow where the host is busy
				Observe: func(outcome string) {
					mu.Lock()
					defer mu.Unlock()
					outcomes[outcome]++
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ask := func(token string) (model.Caller, error) { return iam.Authenticate(t.Context(), token) }
			token := map[string]string{}
			for user, project := range map[string]string{"alice": "red", "bob": "blue", "plane": "blue"} {
				token[user] = k.Token(user, user[:1], project)
			}
			for user, want := range map[string]model.Caller{
				"alice": {Tenant: red, User: alice, Role: model.RoleTenant}, "bob": {Tenant: blue, User: bob, Role: model.RoleTenant},
			} {
				if got, err := ask(token[user]); err != nil || got != want {
					t.Errorf("%s: %+v, %v", user, got, err)
				}
			}
			if got, err := ask(token["plane"]); err != nil || got.Role != model.RoleControlPlane {
				t.Errorf("plane: %+v, %v", got, err)
			}
			for _, made := range []string{"made-up", "", token["alice"] + "x", token["alice"][:20], "a b", "\x00"} {
				if _, err := ask(made); !errors.Is(err, model.ErrUnknownToken) || made != "" && strings.Contains(err.Error(), made) {
					t.Errorf("%q: %v", made, err)
				}
			}

			calls := f.calls.Load()
			if _, err := ask(token["bob"]); err != nil || f.calls.Load() != calls {
				t.Errorf("a token that is known: %v, %d requests", err, f.calls.Load()-calls)
			}
			// Remembered tokens pass while IAM is away, and no other token does.
			f.away.Store(true)
			fresh := k.Token("alice", "a", "red")
			if _, err := ask(fresh); !errors.Is(err, model.ErrAuthUnavailable) || strings.Contains(err.Error(), fresh) {
				t.Errorf("IAM is away: %v", err)
			}
			if _, err := ask(token["bob"]); err != nil {
				t.Errorf("IAM is away, and the token is known: %v", err)
			}
			ahead.Store(int64(6 * time.Minute))
			if _, err := ask(token["bob"]); !errors.Is(err, model.ErrAuthUnavailable) {
				t.Errorf("IAM is away for six minutes: %v", err)
			}
			f.away.Store(false)
			if _, err := ask(token["bob"]); err != nil {
				t.Errorf("IAM is back: %v", err)
			}

			k.Revoke(token["bob"])
			ahead.Store(int64(12 * time.Minute))
			if _, err := ask(token["bob"]); !errors.Is(err, model.ErrUnknownToken) {
				t.Errorf("revoked: %v", err)
			}
			calls = f.calls.Load()
			if _, err := ask(token["bob"]); !errors.Is(err, model.ErrUnknownToken) || f.calls.Load() != calls {
				t.Errorf("refused again: %v, %d requests", err, f.calls.Load()-calls)
			}

			// Many callers with one token make one request.
			f.slow.Store(int64(100 * time.Millisecond))
			calls = f.calls.Load()
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					if _, err := ask(fresh); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			f.slow.Store(0)
			if n := f.calls.Load() - calls; n != 1 {
				t.Errorf("50 callers made %d requests", n)
			}
			mu.Lock()
			// Known: three users, bob again after six minutes, and the fresh token.
			// Refused: the tokens of printable characters, and the revoked one.
			// Unavailable: the fresh token and bob's.
			if outcomes[auth.LookupValid] != 5 || outcomes[auth.LookupRefused] != 5 || outcomes[auth.LookupUnavailable] != 2 {
				t.Errorf("look-ups ended as %v", outcomes)
			}
			mu.Unlock()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := iam.Authenticate(ctx, k.Token("alice", "a", "red")); err != nil && !errors.Is(err, model.ErrAuthUnavailable) {
				t.Errorf("a caller that has hung up: %v", err)
			}
		})
	}

	t.Run("expired", func(t *testing.T) {
		iam, err := auth.NewIAM(auth.IAMOptions{URL: k.URL, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		// A short life may be over before a busy Keystone has looked at the token.
		var life time.Duration
		var token string
		for _, life = range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute} {
			k.Lifetime(life)
			token = k.Token("alice", "a", "red")
			if _, err = iam.Authenticate(t.Context(), token); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("a new token of %v: %v", life, err)
		}
		for end := time.Now().Add(life + 2*time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if _, err := iam.Authenticate(t.Context(), token); errors.Is(err, model.ErrUnknownToken) {
				return
			} else if err != nil || time.Now().After(end) {
				t.Fatalf("a token of %v: %v", life, err)
			}
		}
	})

	t.Run("stopped", func(t *testing.T) {
		k.Stop()
		iam, err := auth.NewIAM(auth.IAMOptions{URL: k.URL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := iam.Authenticate(t.Context(), "whatever"); !errors.Is(err, model.ErrAuthUnavailable) {
			t.Errorf("%v", err)
		}
	})
}

func TestIAMOptionsAreChecked(t *testing.T) {
	for _, o := range []auth.IAMOptions{
		{}, {URL: "iam.example.com"}, {URL: "https://iam", Roles: map[string]auth.Mapping{"a": {Role: "king"}}}, {URL: "https://iam", Roles: map[string]auth.Mapping{"a": {Role: model.RoleTenant}}}, {URL: "https://iam", Roles: map[string]auth.Mapping{"a": {Role: model.RoleOperator}}},
	} {
		if _, err := auth.NewIAM(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// fixed is an Authenticator with one answer.
type fixed struct {
	caller model.Caller
	err    error
}

func (f fixed) Authenticate(context.Context, string) (model.Caller, error) { return f.caller, f.err }

func TestChainAsksUntilOneKnows(t *testing.T) {
	unknown, away, known := fixed{err: model.ErrUnknownToken}, fixed{err: model.ErrAuthUnavailable}, fixed{caller: model.Caller{Role: model.RoleOperator}}
	for _, c := range []struct {
		chain auth.Chain
		want  error
	}{
		{auth.Chain{unknown, known}, nil},
		{auth.Chain{away, known}, nil},
		{auth.Chain{away, unknown}, model.ErrAuthUnavailable},
		{auth.Chain{unknown, unknown}, model.ErrUnknownToken},
		{auth.Chain{}, model.ErrUnknownToken},
	} {
		if _, err := c.chain.Authenticate(t.Context(), "x"); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%v: %v", c.chain, err)
		}
	}
}
