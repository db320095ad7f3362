package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/metrics"
	"holdfast/agent/model"
	"holdfast/internal/reread"
	"holdfast/internal/webclient"
)

// When the listener's certificate is warned of.
const (
	// certificateWarning leaves time to renew it by hand.
	certificateWarning = 21 * 24 * time.Hour
	// certificateLook is how often that is looked at, and said again.
	certificateLook = 12 * time.Hour
)

const (
	// iamTimeout bounds one request to IAM, the connection included. agent/auth bounds a look-up.
	iamTimeout = 10 * time.Second
	// iamConnections are kept while nothing is asked.
	iamConnections = 4
)

// authenticator makes the part that tells who holds a token: it asks
// the file of tokens first, since that costs nothing, and then IAM.
func (a *Agent) authenticator(opened func(func() error)) (api.Authenticator, error) {
	var chain auth.Chain
	if a.cfg.TokensFile != "" {
		static, err := auth.NewStatic(a.cfg.TokensFile, time.Now)
		if err != nil {
			return nil, fmt.Errorf("tokens_file: %w", err)
		}
		a.static = static
		chain = append(chain, static)
	}
	if cfg := a.cfg.IAM; cfg.URL != "" {
		o := auth.IAMOptions{URL: cfg.URL, Roles: map[string]auth.Mapping{}, Lookups: cfg.Lookups, Observe: a.watcher.lookedUp}
		o.Panicked = func(err error) { a.watcher.panicked(metrics.PanicLookup, "ask IAM about a token", err) }
		for name, role := range cfg.Roles {
			o.Roles[name] = auth.Mapping{Role: model.Role(role.Role), Project: role.Project, Domain: role.Domain}
		}
		if cfg.AccountFile != "" {
			account := reread.New(time.Now, func() (*auth.Account, error) { return auth.LoadAccount(cfg.AccountFile) }, cfg.AccountFile)
			if _, err := account.Get(); err != nil {
				return nil, fmt.Errorf("iam.account_file: %w", err)
			}
			o.Account = account.Get
		}
		var err error
		if o.Client, err = webclient.New(webclient.Options{CAFile: cfg.CAFile, AnswerTimeout: iamTimeout, Connections: iamConnections}); err != nil {
			return nil, fmt.Errorf("iam.ca_file: %w", err)
		}
		o.Client.Timeout = iamTimeout
		opened(func() error { o.Client.CloseIdleConnections(); return nil })
		iam, err := auth.NewIAM(o)
		if err != nil {
			return nil, err
		}
		chain = append(chain, iam)
	}
	return api.AuthFunc(func(ctx context.Context, token string) (model.Caller, error) {
		c, err := chain.Authenticate(auth.WithAddress(ctx, api.Address(ctx)), token)
		return c, authError(err)
	}), nil
}

func tlsOptions(cfg *config.Config) auth.TLSOptions {
	t := cfg.TLS
	o := auth.TLSOptions{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCAFile: t.ClientCAFile, CRLFile: t.ClientCRLFile,
		// Where tokens are another way in, one may come without a
		// certificate; but not where both are asked for.
		Require: t.ClientCAFile != "" && (len(t.Clients) == 0 || cfg.TokensFile == "" && cfg.IAM.URL == ""),
	}
	for _, c := range t.Clients {
		o.Clients = append(o.Clients, auth.Client{Name: c.Name, Caller: model.Caller{Tenant: c.Tenant, Role: model.Role(c.Role)}})
	}
	return o
}

// peer tells who calls by the certificate of the connection.
func (a *Agent) peer(r *http.Request) (model.Caller, bool, error) {
	c, name, found, err := a.listeners.tls.Load().Caller(r.TLS)
	if err != nil {
		return model.Caller{}, false, authError(err)
	}
	c.Via = "certificate " + name
	return c, found, nil
}

// watchCertificate tells of a certificate that expires, or that
// can't be replaced, before callers do.
func (a *Agent) watchCertificate(ctx context.Context) {
	if a.cfg.Listen == "" {
		return
	}
	for a.listeners.tls.Load() == nil {
		select {
		case <-time.After(listenEvery):
		case <-ctx.Done():
			return
		}
	}
	tick := time.NewTicker(certificateLook)
	defer tick.Stop()
	for {
		expiry, err := a.listeners.tls.Load().Expiry()
		left := time.Until(expiry)
		switch {
		case err != nil:
			a.log.Error("the files of the listener's certificate are no good; the last good one is served", "expires", expiry.UTC(), keyError, err.Error())
		case left < 0:
			a.log.Error("the listener's certificate has expired; callers refuse it", "expired", expiry.UTC())
		case left < certificateWarning:
			a.log.Warn("the listener's certificate expires soon", "expires", expiry.UTC())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// authError is an error of agent/auth as agent/api takes it: an error that does not say that the
// caller is unknown says that the caller can't be checked.
func authError(err error) error {
	if err == nil || errors.Is(err, model.ErrUnknownToken) || errors.Is(err, model.ErrAuthTooOften) || errors.Is(err, model.ErrAuthUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", model.ErrAuthUnavailable, err)
}
