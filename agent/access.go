package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/metrics"
)

// When the listener's certificate is warned of.
const (
	// certificateWarning leaves time to renew it by hand.
	certificateWarning = 21 * 24 * time.Hour
	// certificateLook is how often that is looked at, and said again.
	certificateLook = 12 * time.Hour
)

// iamTimeout bounds one request to IAM, the connection included. agent/auth bounds a look-up.
const iamTimeout = 10 * time.Second

// authenticator makes what is asked whose a token is: the file of tokens first, as it costs nothing, then IAM.
func (a *Agent) authenticator(opened func(func() error)) (api.Authenticator, error) {
	var chain auth.Chain
	if a.cfg.TokensFile != "" {
		static, err := auth.NewStatic(a.cfg.TokensFile, time.Now)
		if err != nil {
			return nil, fmt.Errorf("tokens_file: %w", err)
		}
		chain = append(chain, static)
	}
	if cfg := a.cfg.IAM; cfg.URL != "" {
		o := auth.IAMOptions{URL: cfg.URL, Roles: map[string]auth.Mapping{}, Observe: a.metrics.IAMLookup}
		o.Panicked = func(err error) { a.watcher.panicked(metrics.PanicLookup, "ask IAM about a token", err) }
		for name, role := range cfg.Roles {
			o.Roles[name] = auth.Mapping{Role: auth.Role(role.Role), Project: role.Project, Domain: role.Domain}
		}
		var err error
		if cfg.AccountFile != "" {
			if o.Account, err = auth.LoadAccount(cfg.AccountFile); err != nil {
				return nil, fmt.Errorf("iam.account_file: %w", err)
			}
		}
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: iamTimeout, ResponseHeaderTimeout: iamTimeout,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
		}
		if cfg.CAFile != "" {
			pem, err := os.ReadFile(cfg.CAFile)
			if err != nil {
				return nil, fmt.Errorf("iam.ca_file: %w", err)
			}
			transport.TLSClientConfig.RootCAs = x509.NewCertPool()
			if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("iam.ca_file %s: no certificate in it", cfg.CAFile)
			}
		}
		o.Client = &http.Client{Transport: transport, Timeout: iamTimeout}
		opened(func() error { transport.CloseIdleConnections(); return nil })
		iam, err := auth.NewIAM(o)
		if err != nil {
			return nil, err
		}
		chain = append(chain, iam)
	}
	return api.AuthFunc(func(ctx context.Context, token string) (api.Caller, error) {
		c, err := chain.Authenticate(ctx, token)
		if err != nil {
			return api.Caller{}, authError(err)
		}
		return api.Caller{Tenant: c.Tenant, User: c.User, Role: api.Role(c.Role)}, nil
	}), nil
}

func tlsOptions(cfg *config.Config) auth.TLSOptions {
	t := cfg.TLS
	o := auth.TLSOptions{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCAFile: t.ClientCAFile, CRLFile: t.ClientCRLFile,
		// Where tokens are another way in, one may come without a certificate; but not where both are asked for.
		Require: t.ClientCAFile != "" && (len(t.Clients) == 0 || cfg.TokensFile == "" && cfg.IAM.URL == ""),
	}
	for _, c := range t.Clients {
		o.Clients = append(o.Clients, auth.Client{Name: c.Name, Caller: auth.Caller{Tenant: c.Tenant, Role: auth.Role(c.Role)}})
	}
	return o
}

// peer tells who calls by the certificate of the connection.
func (a *Agent) peer(r *http.Request) (api.Caller, bool, error) {
	c, name, found, err := a.listeners.tls.Load().Caller(r.TLS)
	if err != nil {
		return api.Caller{}, false, authError(err)
	}
	return api.Caller{Tenant: c.Tenant, User: c.User, Role: api.Role(c.Role), Via: "certificate " + name}, found, nil
}

// watchCertificate tells of a certificate that expires, or that can't be replaced, before callers do.
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

// authError turns a failure of agent/auth into that of agent/api.
func authError(err error) error {
	if errors.Is(err, auth.ErrUnknownToken) {
		return fmt.Errorf("%w: %w", api.ErrUnknownToken, err)
	}
	return fmt.Errorf("%w: %w", api.ErrAuthUnavailable, err)
}
