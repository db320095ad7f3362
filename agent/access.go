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
		o := auth.IAMOptions{URL: cfg.URL, Roles: map[string]auth.Role{}, Observe: a.metrics.IAMLookup}
		for name, role := range cfg.Roles {
			o.Roles[name] = auth.Role(role)
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
		// No redirects: a token goes to the host that the configuration names, and to no other.
		o.Client = &http.Client{Transport: transport, Timeout: iamTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
		opened(func() error { transport.CloseIdleConnections(); return nil })
		iam, err := auth.NewIAM(o)
		if err != nil {
			return nil, err
		}
		chain = append(chain, iam)
	}
	return api.AuthFunc(func(ctx context.Context, token string) (api.Caller, error) {
		c, err := chain.Authenticate(ctx, token)
		switch {
		case errors.Is(err, auth.ErrUnknownToken):
			return api.Caller{}, fmt.Errorf("%w: %w", api.ErrUnknownToken, err)
		case err != nil:
			return api.Caller{}, fmt.Errorf("%w: %w", api.ErrAuthUnavailable, err)
		}
		return api.Caller{Tenant: c.Tenant, User: c.User, Role: api.Role(c.Role)}, nil
	}), nil
}
