package report

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// CheckURL tells what is wrong with the address of a control plane. It must be https; http is taken
// for a loopback address only, for a demonstration or a relay on this host.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("report url: %w", err)
	}
	if u.User != nil {
		return fmt.Errorf("report url: %s names a user; use a token file", u.Redacted())
	}
	switch {
	case u.Host == "":
		return fmt.Errorf("report url %q: no host", raw)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("report url %q: must be https (http only to a loopback address)", raw)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ClientOptions say whom a client trusts and who it is. All may be empty.
type ClientOptions struct {
	CAFile   string // PEM; "" trusts the system's
	CertFile string // client certificate, with KeyFile
	KeyFile  string
}

// NewClient returns a client for a Deliverer. It follows no redirect, which would send the token and
// the report to an address that nobody configured. Close it with CloseIdleConnections.
func NewClient(o ClientOptions) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("report CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("report CA %s: no certificate in it", o.CAFile)
		}
	}
	if o.CertFile != "" {
		// Read for each handshake, so that a renewed certificate is used without a restart.
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("report client certificate: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       config,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   atOnce,
			IdleConnTimeout:       time.Minute,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: attemptTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
