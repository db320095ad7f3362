package obs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The parameters of a URL that say how connections are made.
var connectParameters = []string{"ca-file", "client-cert", "client-key", "proxy", "family", "connect-timeout"}

// The range of connect-timeout.
const minDial, maxDial = 100 * time.Millisecond, 5 * time.Minute

// proxyCredentials is the variable, and in small letters the
// systemd credential, that has "user:password" for a proxy.
const proxyCredentials = "HOLDFAST_PROXY_CREDENTIALS"

// connectOptions say how connections are made.
type connectOptions struct {
	caFile            string         // of roots; "" for none
	roots             *x509.CertPool // nil is the host's
	certFile, keyFile string         // of the client; "" for none
	proxy             func(*http.Request) (*url.URL, error)
	family            string // "4" or "6"; "" is any
	dial              time.Duration
}

// parseConnectOptions reads the connection parameters of a URL, and the files that they name.
func parseConnectOptions(q map[string]string, getenv func(string) string) (c connectOptions, err error) {
	bad := func(name, want string) error {
		return fmt.Errorf("%w: store URL: %s %q, want %s", ErrUsage, name, q[name], want)
	}
	c.dial, c.family = dialTimeout, q["family"]
	c.certFile, c.keyFile = q["client-cert"], q["client-key"]
	for _, name := range []string{"ca-file", "client-cert", "client-key"} {
		if q[name] != "" && !filepath.IsAbs(q[name]) {
			return c, bad(name, "an absolute path")
		}
	}
	if c.family != "" && c.family != "4" && c.family != "6" {
		return c, bad("family", "4 or 6")
	}
	if text := q["connect-timeout"]; text != "" {
		if c.dial, err = time.ParseDuration(text); err != nil || c.dial < minDial || c.dial > maxDial {
			return c, bad("connect-timeout", fmt.Sprintf("a time from %v to %v, such as 5s", minDial, maxDial))
		}
	}
	if name := q["ca-file"]; name != "" {
		c.caFile = name
		if c.roots, err = rootsFrom(name); err != nil {
			return c, fmt.Errorf("%w: store URL: ca-file: %w", ErrUsage, err)
		}
	}
	if (c.certFile == "") != (c.keyFile == "") {
		return c, fmt.Errorf("%w: store URL: client-cert and client-key go together", ErrUsage)
	}
	if c.certFile != "" {
		if _, err := c.clientCertificate(nil); err != nil {
			return c, fmt.Errorf("%w: store URL: %w", ErrUsage, err)
		}
	}
	user, err := proxyUser(getenv)
	if err != nil {
		return c, err
	}
	c.proxy = withUser(http.ProxyFromEnvironment, user)
	switch text := q["proxy"]; text {
	case "":
	case "none":
		c.proxy = nil
	default:
		p, err := url.Parse(text)
		if err != nil || p.Host == "" || p.Path != "" && p.Path != "/" || p.Scheme != "http" && p.Scheme != "https" && p.Scheme != "socks5" {
			return c, fmt.Errorf("%w: store URL: proxy: want http://host:port, or none", ErrUsage)
		}
		if p.User != nil {
			return c, fmt.Errorf("%w: store URL: the proxy has a user or password, which belong into %s", ErrUsage, proxyCredentials)
		}
		c.proxy = withUser(http.ProxyURL(p), user)
	}
	return c, nil
}

// rootsFrom adds the certificates of a file to the certificates that the host trusts.
func rootsFrom(name string) (*x509.CertPool, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in the PEM form", name)
	}
	return pool, nil
}

// clientCertificate reads the certificate at each handshake, so
// that a renewed one is used without a restart.
func (c *connectOptions) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	fi, err := os.Stat(c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("client-key: %w", err)
	}
	if perm := fi.Mode().Perm(); perm&0o007 != 0 {
		return nil, fmt.Errorf("client-key: %w", &exposedError{c.keyFile, perm})
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("client-cert: %w", err)
	}
	return &cert, nil
}

// proxyUser finds the user and the password for a proxy; nil where there are none.
func proxyUser(getenv func(string) string) (*url.Userinfo, error) {
	text := getenv(proxyCredentials)
	if dir := getenv("CREDENTIALS_DIRECTORY"); text == "" && dir != "" {
		raw, err := os.ReadFile(filepath.Join(dir, "proxy-credentials"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: the credential proxy-credentials: %w", ErrUsage, err)
		}
		text = strings.TrimSpace(string(raw))
	}
	if text == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" {
		return nil, fmt.Errorf("%w: %s (or the credential proxy-credentials) is not of the form user:password", ErrUsage, proxyCredentials)
	}
	return url.UserPassword(user, password), nil
}

// withUser gives user and password to a proxy that has none.
func withUser(proxy func(*http.Request) (*url.URL, error), user *url.Userinfo) func(*http.Request) (*url.URL, error) {
	if user == nil {
		return proxy
	}
	return func(req *http.Request) (*url.URL, error) {
		u, err := proxy(req)
		if err != nil || u == nil || u.User != nil {
			return u, err
		}
		again := *u
		again.User = user
		return &again, nil
	}
}

// apply sets a transport up.
func (c *connectOptions) apply(tr *http.Transport) {
	tr.Proxy = c.proxy
	tr.TLSClientConfig.RootCAs = c.roots
	if c.certFile != "" {
		tr.TLSClientConfig.GetClientCertificate = c.clientCertificate
	}
	tr.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, res *http.Response) error {
		if res.StatusCode == http.StatusOK {
			return nil
		}
		err := fmt.Errorf("the proxy %s answered %s", proxy.Host, res.Status)
		if res.StatusCode >= http.StatusInternalServerError {
			return &unavailableError{err: err}
		}
		return fmt.Errorf("%w: %w", ErrProxy, err)
	}
}

// network is the network of a dialer: any family of addresses, or one.
func (c *connectOptions) network(network string) string {
	if network == "tcp" {
		return network + c.family
	}
	return network
}

// noSuchHost reports whether a name service answered that it knows no such name. A name
// service that is out of order gives another answer.
func noSuchHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
