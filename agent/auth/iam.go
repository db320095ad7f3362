package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"holdfast/agent/model"
	"holdfast/internal/contain"
)

const (
	// keepValid is how long an answer of IAM is believed, at most: a
	// token that is revoked, or whose user lost a role, passes for no
	// longer. IAM itself may let it pass for up to half an hour.
	keepValid = 5 * time.Minute
	// keepRefused is how long a refusal is believed: long enough to keep a caller's retries
	// off IAM, short enough for a token that has only just reached all of IAM's servers.
	keepRefused = 10 * time.Second
	// maxTokens bounds the number of remembered tokens, and so the memory that callers
	// with made-up tokens can take: about 3 MB.
	maxTokens = 10_000
	// maxLookups bounds the requests to IAM at a time.
	maxLookups = 16
	// defaultTimeout is well above the time that IAM takes, and below a caller's patience.
	defaultTimeout = 10 * time.Second
)

// IAMOptions say which IAM is asked, and how.
type IAMOptions struct {
	// URL is Keystone's version 3 endpoint, such as https://iam.example.com/v3.
	URL string
	// Client is used for all requests; nil is a client with the system's authorities.
	// IAM never follows redirects, even if Client would.
	Client *http.Client
	// Account returns the service account that looks tokens up; IAM calls it before
	// each look-up, as the account may change. Nil: IAM uses each token to look itself
	// up, which needs no permission except that the token is valid.
	Account func() (*Account, error)
	// Lookups is how many tokens a second IAM is asked about that turn out to be
	// none, a quarter of them for one address (see WithAddress); 0 is DefaultLookups.
	Lookups int
	// Roles maps names of IAM's roles to ours. A token with none of them is a tenant's.
	// Of several the first in the order control-plane, operator, read-only counts.
	Roles map[string]Mapping
	// Timeout bounds one look-up; 0 is ten seconds.
	Timeout time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Observe gets the outcome of each look-up at IAM, on a goroutine of the look-up's:
	// one of the Lookup constants. A remembered token is not looked up. May be nil.
	Observe func(outcome string)
	// Panicked gets a panic in a look-up, on the same goroutine, once per look-up. The
	// look-up ends as unavailable. May be nil.
	Panicked func(err error)
}

// How a look-up ends.
const (
	LookupValid       = "valid"
	LookupRefused     = "refused"
	LookupUnavailable = "unavailable" // IAM did not tell, and nobody was let in
	LookupNotAsked    = "not_asked"   // IAM was asked about too many unknown tokens already
)

// Account is a user of IAM with the permission to validate the tokens of others.
type Account struct {
	User, Password, Domain string // names
	Project                string // name, in Domain
}

// IAM answers from Keystone v3
// (https://docs.openstack.org/api-ref/identity/v3/#validate-and-show-information-for-token).
// The tenant is the token's project, or its domain where it has none; a token of neither is
// refused. Answers are remembered by the token's hash for at most five minutes and no longer
// than the token lives; there is one look-up at a time per token. When IAM does not answer,
// or something else answers in its place, nobody new gets in. It is safe for concurrent use.
type IAM struct {
	o       IAMOptions
	lookups *semaphore.Weighted
	budget  *budget
	group   singleflight.Group

	mu      sync.Mutex
	known   map[[sha256.Size]byte]verdict
	service *gophercloud.ProviderClient // logged in as the account; nil before the first look-up
	account Account                     // of service
}

// verdict is IAM's answer about a token.
type verdict struct {
	caller model.Caller
	err    error // ErrUnknownToken, wrapped, or nil
	until  time.Time
}

// NewIAM returns an IAM. It asks nothing yet: an IAM that is away
// at the start may be there when it is needed.
func NewIAM(o IAMOptions) (*IAM, error) {
	if !strings.HasPrefix(o.URL, "https://") && !strings.HasPrefix(o.URL, "http://") {
		return nil, fmt.Errorf("IAM: %q is no URL of the form https://host/v3", o.URL)
	}
	for name, r := range o.Roles {
		if r.Role != model.RoleControlPlane && r.Role != model.RoleOperator && r.Role != model.RoleReadOnly {
			return nil, fmt.Errorf("IAM: the role %q is mapped to %q, which is none of %s, %s, %s", name, r.Role, model.RoleControlPlane, model.RoleOperator, model.RoleReadOnly)
		}
		if r.Role == model.RoleOperator && r.Project == "" && r.Domain == "" {
			return nil, fmt.Errorf("IAM: the role %q is mapped to %s without a project or a domain", name, model.RoleOperator)
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = checked{client.Transport}
	// No redirects: a token goes to the host that the configuration names, and to no other.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = &client
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Observe == nil {
		o.Observe = func(string) {}
	}
	if o.Panicked == nil {
		o.Panicked = func(error) {}
	}
	if o.Lookups == 0 {
		o.Lookups = DefaultLookups
	}
	counted := &budget{perSecond: float64(o.Lookups), now: o.Now}
	return &IAM{o: o, lookups: semaphore.NewWeighted(maxLookups), budget: counted, known: map[[sha256.Size]byte]verdict{}}, nil
}

// Authenticate returns the holder of the token.
func (a *IAM) Authenticate(ctx context.Context, token string) (model.Caller, error) {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return model.Caller{}, fmt.Errorf("%w: it has characters that no token has", model.ErrUnknownToken)
	}
	key := sha256.Sum256([]byte(token))
	if v, ok := a.remembered(key); ok {
		return v.caller, v.err
	}
	// No single waiting caller can end the look-up.
	result := a.group.DoChan(string(key[:]), func() (any, error) {
		if v, ok := a.remembered(key); ok {
			return v, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.o.Timeout)
		defer cancel()
		// A panic here would come up again on a goroutine of the
		// group's, where nobody can contain it.
		v, err := contain.Value(func() (verdict, error) { return a.look(ctx, token) })
		if contain.Of(err) != nil {
			a.o.Panicked(err)
		}
		if errors.Is(err, model.ErrAuthTooOften) {
			a.o.Observe(LookupNotAsked)
			return nil, err
		}
		if err != nil {
			a.o.Observe(LookupUnavailable)
			return nil, err
		}
		if v.err != nil {
			a.o.Observe(LookupRefused)
		} else {
			a.o.Observe(LookupValid)
		}
		a.remember(key, v)
		return v, nil
	})
	select {
	case r := <-result:
		if errors.Is(r.Err, model.ErrAuthTooOften) {
			return model.Caller{}, r.Err
		}
		if r.Err != nil {
			return model.Caller{}, fmt.Errorf("%w: IAM at %s: %w", model.ErrAuthUnavailable, a.o.URL, r.Err)
		}
		v, ok := r.Val.(verdict)
		if !ok { // the look-up was left without a result
			return model.Caller{}, fmt.Errorf("%w: the look-up did not end", model.ErrAuthUnavailable)
		}
		return v.caller, v.err
	case <-ctx.Done():
		return model.Caller{}, fmt.Errorf("%w: %w", model.ErrAuthUnavailable, context.Cause(ctx))
	}
}

func (a *IAM) remembered(key [sha256.Size]byte) (verdict, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.known[key]
	if ok && !a.o.Now().Before(v.until) {
		delete(a.known, key)
		return verdict{}, false
	}
	return v, ok
}

func (a *IAM) remember(key [sha256.Size]byte, v verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxTokens {
		now := a.o.Now()
		for k, old := range a.known {
			if !now.Before(old.until) {
				delete(a.known, k)
			}
		}
	}
	for k := range a.known { // any: an answer that is forgotten is asked for again
		if len(a.known) < maxTokens {
			break
		}
		delete(a.known, k)
	}
	a.known[key] = v
}

// Forget drops all that is remembered, so that every token is asked about again.
func (a *IAM) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
}

// look asks IAM. An error says that IAM did not tell; a refusal by IAM is a verdict. An
// answer counts only if every part that look uses has IAM's form: a wrong one may let
// in anybody, or keep out a rightful caller.
func (a *IAM) look(ctx context.Context, token string) (v verdict, err error) {
	address := addressOf(ctx)
	if !a.budget.allows(address) {
		return verdict{}, model.ErrAuthTooOften // a caller that tries tokens keeps no other waiting
	}
	if err := a.lookups.Acquire(ctx, 1); err != nil {
		return verdict{}, errors.New("too many look-ups are under way")
	}
	defer a.lookups.Release(1)
	giveBack, ok := a.budget.take(address)
	if !ok {
		return verdict{}, model.ErrAuthTooOften
	}
	defer func() {
		if err == nil && v.err == nil && !v.until.IsZero() { // none after a panic
			giveBack()
		}
	}()
	provider, err := a.provider(ctx, token)
	if err != nil {
		return verdict{}, err
	}
	client := &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: strings.TrimSuffix(a.o.URL, "/") + "/"}
	got := tokens.Get(ctx, client, token)
	now := a.o.Now()
	refused := func(why string) (verdict, error) {
		return verdict{err: fmt.Errorf("%w: %s", model.ErrUnknownToken, why), until: now.Add(keepRefused)}, nil
	}
	switch {
	case gophercloud.ResponseCodeIs(got.Err, http.StatusNotFound), a.o.Account == nil && gophercloud.ResponseCodeIs(got.Err, http.StatusUnauthorized):
		return refused("IAM does not know it, or it has expired or was revoked")
	case got.Err != nil:
		return verdict{}, plain(got.Err)
	}
	// A cache on the way may give the answer of another token.
	if of := got.Header.Get("X-Subject-Token"); of != "" && of != token {
		return verdict{}, notIAM("its answer is of another token")
	}
	var said tokenAnswer
	if err := got.Result.ExtractInto(&said); err != nil {
		return verdict{}, notIAM("its answer has another form than a token's")
	}
	if err := said.check(); err != nil {
		return verdict{}, err
	}
	t := said.Token
	c := model.Caller{User: t.User.ID, Role: a.role(&said)}
	switch {
	case t.Project != nil:
		c.Tenant = t.Project.ID
	case t.Domain != nil:
		c.Tenant = t.Domain.ID
	default:
		return refused("it is of no project and no domain")
	}
	if !now.Before(*t.ExpiresAt) {
		return refused("it has expired")
	}
	until := now.Add(keepValid)
	if t.ExpiresAt.Before(until) {
		until = *t.ExpiresAt
	}
	return verdict{caller: c, until: until}, nil
}

// Mapping gives the holders of a role of IAM their permissions.
type Mapping struct {
	Role model.Role
	// Project, or Domain, is the id of the only project, or domain with its
	// projects, whose tokens count; both may be empty, but for an operator, who
	// sees every tenant: a role of any name may be given out in any account.
	Project, Domain string
}

// of tells whether the mapping counts for the token.
func (m Mapping) of(t *tokenAnswer) bool {
	project, domain := "", ""
	if p := t.Token.Project; p != nil {
		project = p.ID
		if p.Domain != nil {
			domain = p.Domain.ID
		}
	} else if d := t.Token.Domain; d != nil {
		domain = d.ID
	}
	return (m.Project == "" || m.Project == project) && (m.Domain == "" || m.Domain == domain)
}

func (a *IAM) role(t *tokenAnswer) model.Role {
	for _, want := range []model.Role{model.RoleControlPlane, model.RoleOperator, model.RoleReadOnly} {
		if slices.ContainsFunc(t.Token.Roles, func(r roleAnswer) bool { return a.o.Roles[r.Name].Role == want && a.o.Roles[r.Name].of(t) }) {
			return want
		}
	}
	return model.RoleTenant
}

// provider returns the client for a look-up, with the token that authorises the look-up itself.
func (a *IAM) provider(ctx context.Context, token string) (*gophercloud.ProviderClient, error) {
	if a.o.Account == nil {
		return &gophercloud.ProviderClient{IdentityEndpoint: a.o.URL, TokenID: token, HTTPClient: *a.o.Client}, nil
	}
	acc, err := a.o.Account()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	service, of := a.service, a.account
	a.mu.Unlock()
	if service != nil && of == *acc {
		return service, nil
	}
	// Two at once would both log in; the later stays.
	if service, err = openstack.NewClient(a.o.URL); err != nil {
		return nil, err
	}
	service.HTTPClient = *a.o.Client
	err = openstack.AuthenticateV3(ctx, service, &gophercloud.AuthOptions{
		IdentityEndpoint: a.o.URL, Username: acc.User, Password: acc.Password, DomainName: acc.Domain, AllowReauth: true,
		Scope: &gophercloud.AuthScope{ProjectName: acc.Project, DomainName: acc.Domain},
	}, gophercloud.EndpointOpts{})
	if err != nil {
		return nil, fmt.Errorf("log in as %s: %w", acc.User, plain(err))
	}
	if service.Token() == "" {
		return nil, fmt.Errorf("log in as %s: %w", acc.User, notIAM("its answer has no token in the header X-Subject-Token"))
	}
	a.mu.Lock()
	a.service, a.account = service, *acc
	a.mu.Unlock()
	return service, nil
}

// plain removes from an error the texts of the request and the answer: they may hold a token.
func plain(err error) error {
	if e, ok := errors.AsType[*notIAMError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*gophercloud.ErrUnableToReauthenticate](err); ok {
		return fmt.Errorf("log in again: %w", plain(e.ErrReauth))
	}
	if e, ok := errors.AsType[*gophercloud.ErrErrorAfterReauthentication](err); ok {
		return plain(e.ErrOriginal)
	}
	if e, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok {
		return fmt.Errorf("it answered %d %s", e.Actual, http.StatusText(e.Actual))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err // it has no more than the cause of a failed connection
	}
	if e, ok := errors.AsType[net.Error](err); ok {
		return e
	}
	return fmt.Errorf("it could not be asked (%T)", err)
}
