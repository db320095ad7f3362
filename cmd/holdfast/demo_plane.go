package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// certificate is a self-made one for 127.0.0.1, which the demo's
// agent and control plane share and trust.
type certificate struct {
	certFile, keyFile string
	pool              *x509.CertPool
}

// newCertificate writes a certificate and its key, valid for a day.
func newCertificate(certFile, keyFile string) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "holdfast demo"},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, pool: x509.NewCertPool()}
	c.pool.AddCert(parsed)
	return c, errors.Join(
		writePEM(certFile, "CERTIFICATE", der),
		writePEM(keyFile, "PRIVATE KEY", private),
	)
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// client speaks HTTPS with servers that have the certificate.
func (c *certificate) client() *http.Client {
	return &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.pool, MinVersion: tls.VersionTLS13}},
	}
}

// message is a report as the control plane gets it: a CloudEvent in structured JSON.
type message struct {
	Type    string          `json:"type"`
	Subject string          `json:"subject"`
	Time    time.Time       `json:"time"`
	Data    json.RawMessage `json:"data"`
}

// delivery is a report whose sender waits for the answer.
type delivery struct {
	message
	answer chan<- struct{} // acknowledges the report; takes one without blocking
}

// plane is the demo's control plane: it hands each report to the demo, which answers it.
type plane struct {
	url       string
	delivered chan delivery
	server    *http.Server
	ended     chan error // what Serve returned
}

// maxReport bounds the bytes of a report that the control plane reads.
const maxReport = 1 << 20

// newPlane starts a control plane on a free port of 127.0.0.1.
func newPlane(c *certificate, token string) (*plane, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &plane{
		url:       "https://" + listener.Addr().String() + "/reports",
		delivered: make(chan delivery),
		ended:     make(chan error, 1),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reports", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var m message
		if err := json.NewDecoder(io.LimitReader(r.Body, maxReport)).Decode(&m); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answer := make(chan struct{}, 1)
		select {
		case p.delivered <- delivery{m, answer}:
		case <-r.Context().Done():
			return
		}
		select {
		case <-answer:
			w.Header().Set("Content-Type", "application/json")
			// the agent may have ended
			_, _ = io.WriteString(w, `{"error_code":"0","error_msg":"OK"}`)
		case <-r.Context().Done():
		}
	})
	p.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13},
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() { p.ended <- p.server.ServeTLS(listener, c.certFile, c.keyFile) }()
	return p, nil
}

// next waits for the next report of that type; reports of other types are
// acknowledged on the way. A report that the job failed ends the wait.
func (p *plane) next(ctx context.Context, want string) (delivery, error) {
	for {
		select {
		case d := <-p.delivered:
			switch d.Type {
			case want:
				return d, nil
			case "holdfast.backup.failed":
				d.answer <- struct{}{}
				return delivery{}, fmt.Errorf("the agent reports that the backup failed: %s", d.Data)
			}
			d.answer <- struct{}{}
		case <-ctx.Done():
			return delivery{}, fmt.Errorf("wait for report %s: %w", want, context.Cause(ctx))
		}
	}
}

// Close ends the server and waits for it.
func (p *plane) Close() error {
	err := p.server.Close()
	if serr := <-p.ended; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
