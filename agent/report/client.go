package report

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/webclient"
)

// CheckURL tells the fault of the address of a control plane. It must be https; http
// is taken for a loopback address only, for a demonstration or a relay on this host.
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

// NewClient returns a client for a Deliverer that trusts the authorities of
// caFile, read again when the file changes ("" trusts the system's). It follows no
// redirect, which would send the token and the report to an address that nobody
// configured. timeout is Options.Timeout. Close it with CloseIdleConnections.
func NewClient(caFile string, timeout time.Duration) (*http.Client, error) {
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return webclient.New(webclient.Options{CAFile: caFile, AnswerTimeout: timeout, Connections: atOnce})
}
