package auth

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/reread"
)

// TLSOptions name the files of a listener with TLS. All are read again within a second of a change.
type TLSOptions struct {
	CertFile, KeyFile string // of the listener, PEM
	// ClientCAFile has the authorities of callers' certificates; "" asks for none.
	ClientCAFile string
	// CRLFile has a revocation list of each authority that issues to
	// callers, PEM or one in DER; "" revokes nobody.
	CRLFile string
	// Clients maps names to callers; the first that a certificate has counts.
	Clients []Client
	// Require refuses connections without a certificate.
	Require bool
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client is the holder of a certificate of a certain name: its common name, or a DNS name, mail
// address or URI among its alternative names. Names are compared exactly, without wildcards.
type Client struct {
	Name   string
	Caller model.Caller
}

// TLS is the server's side of TLS 1.3, and tells callers by their certificates. The listener's
// own certificate stays the last good one while its files are broken (they may be being
// replaced); authorities and revocation lists that can't be read, or a list past its next
// update, let nobody in by certificate until they are right. It is safe for concurrent use.
type TLS struct {
	o      TLSOptions
	own    *reread.Files[*tls.Certificate]
	cas    *reread.Files[authorities]
	lists  *reread.Files[revoked]
	config *tls.Config

	mu   sync.Mutex
	last *tls.Certificate // the last good one
	made *x509.CertPool   // the authorities of forClient
	// forClient is the configuration of a handshake while the authorities are still made.
	forClient *tls.Config
}

type authorities struct {
	list []*x509.Certificate
	pool *x509.CertPool
}

// revoked maps an issuer (its name in DER) to the list of the certificates that it revoked.
type revoked map[string]list

type list struct {
	serials map[string]bool
	next    time.Time // when there is a newer one
}

// NewTLS reads all files. Each must be right.
func NewTLS(o TLSOptions) (*TLS, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &TLS{o: o}
	t.own = reread.New(o.Now, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		return &pair, err
	}, o.CertFile, o.KeyFile)
	t.cas = reread.New(o.Now, func() (authorities, error) { return readAuthorities(o.ClientCAFile) }, o.ClientCAFile)
	t.lists = reread.New(o.Now, func() (revoked, error) {
		cas, err := t.cas.Get()
		if err != nil {
			return nil, err
		}
		return readLists(o.CRLFile, cas.list)
	}, o.CRLFile, o.ClientCAFile)
	if _, err := t.certificate(); err != nil {
		return nil, err
	}
	t.config = &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.serving() },
	}
	if o.ClientCAFile == "" {
		return t, nil
	}
	if _, err := t.cas.Get(); err != nil {
		return nil, err
	}
	if o.CRLFile != "" {
		if _, err := t.lists.Get(); err != nil {
			return nil, err
		}
	}
	t.config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.clientConfig() }
	return t, nil
}

// Config is for a listener. It stays the same while files change.
func (t *TLS) Config() *tls.Config { return t.config }

// certificate gives the listener's certificate as it is in its files.
func (t *TLS) certificate() (*tls.Certificate, error) {
	pair, err := t.own.Get()
	if err != nil {
		return nil, fmt.Errorf("certificate of the listener: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = pair
	return pair, nil
}

// serving gives the last good certificate.
func (t *TLS) serving() (*tls.Certificate, error) {
	_, _ = t.certificate() // Expiry tells of a fault
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, nil
}

// Expiry returns when the served certificate expires, and the fault of the files that
// were to replace it.
func (t *TLS) Expiry() (time.Time, error) {
	_, err := t.certificate()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last.Leaf.NotAfter, err
}

// clientConfig is the configuration of one handshake: it has the authorities as they are now.
func (t *TLS) clientConfig() (*tls.Config, error) {
	cas, err := t.cas.Get()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.made != cas.pool {
		c := t.config.Clone()
		c.GetConfigForClient = nil
		c.ClientCAs, c.ClientAuth = cas.pool, tls.VerifyClientCertIfGiven
		if t.o.Require {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		// Called for resumed sessions too, which VerifyPeerCertificate is not.
		c.VerifyConnection = func(s tls.ConnectionState) error { return t.check(&s) }
		t.made, t.forClient = cas.pool, c
	}
	return t.forClient, nil
}

// Caller returns the holder of the certificate of a connection, and the name by which TLS knows
// the holder. found is false where there is no certificate or none of its names is known. It is to
// be asked on each call, since a connection outlives a revocation: the error wraps ErrUnknownToken
// for a certificate that is revoked or expired, and ErrAuthUnavailable where TLS can't tell.
func (t *TLS) Caller(s *tls.ConnectionState) (c model.Caller, name string, found bool, err error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return model.Caller{}, "", false, nil
	}
	if err := t.check(s); err != nil {
		return model.Caller{}, "", false, err
	}
	leaf := s.PeerCertificates[0]
	names := slices.Concat([]string{leaf.Subject.CommonName}, leaf.DNSNames, leaf.EmailAddresses)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	for _, known := range t.o.Clients {
		if slices.Contains(names, known.Name) {
			return known.Caller, known.Name, true, nil
		}
	}
	return model.Caller{}, "", false, nil
}

// check looks whether the certificate of a connection is still
// good: of one chain, nothing may have expired or be revoked.
func (t *TLS) check(s *tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	if now := t.o.Now(); now.After(s.PeerCertificates[0].NotAfter) {
		return fmt.Errorf("%w: the certificate has expired", model.ErrUnknownToken)
	}
	if t.o.CRLFile == "" {
		return nil
	}
	lists, err := t.lists.Get()
	if err != nil {
		return fmt.Errorf("%w: revocation list: %w", model.ErrAuthUnavailable, err)
	}
	err = fmt.Errorf("%w: no authority vouches for the certificate", model.ErrUnknownToken)
	for _, chain := range s.VerifiedChains {
		if err = lists.checkChain(chain, t.o.Now()); err == nil {
			return nil
		}
	}
	return err
}

func (r revoked) checkChain(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain {
		if i > 0 && i == len(chain)-1 {
			break // the configuration itself vouches for it
		}
		l, ok := r[string(c.RawIssuer)]
		switch {
		case !ok:
			return fmt.Errorf("%w: there is no revocation list of %s", model.ErrAuthUnavailable, c.Issuer)
		case now.After(l.next):
			return fmt.Errorf("%w: the revocation list of %s was to be replaced by %s", model.ErrAuthUnavailable, c.Issuer, l.next.UTC().Format(time.RFC3339))
		case l.serials[c.SerialNumber.String()]:
			return fmt.Errorf("%w: the certificate %s of %s is revoked", model.ErrUnknownToken, c.SerialNumber, c.Issuer)
		}
	}
	return nil
}

// readBounded reads a file of at most maxFileBytes.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFileBytes)
	}
	return data, err
}

func readAuthorities(path string) (authorities, error) {
	a := authorities{pool: x509.NewCertPool()}
	data, err := readBounded(path)
	if err != nil {
		return a, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return a, fmt.Errorf("%s: %w", path, err)
		}
		a.list = append(a.list, c)
		a.pool.AddCert(c)
	}
	if len(a.list) == 0 {
		return a, fmt.Errorf("%s: no certificate in it", path)
	}
	return a, nil
}

// readLists reads revocation lists, each of which one of the authorities must have signed.
func readLists(path string, cas []*x509.Certificate) (revoked, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	var ders [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	if len(ders) == 0 && !bytes.Contains(data, []byte("-----BEGIN")) && len(data) > 0 {
		ders = append(ders, data)
	}
	if len(ders) == 0 {
		return nil, fmt.Errorf("%s: no revocation list in it", path)
	}
	lists := revoked{}
	for _, der := range ders {
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool {
			return bytes.Equal(ca.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(ca) == nil
		}) {
			return nil, fmt.Errorf("%s: the list of %s is signed by none of the authorities", path, crl.Issuer)
		}
		l := list{serials: map[string]bool{}, next: crl.NextUpdate}
		for _, e := range crl.RevokedCertificateEntries {
			l.serials[e.SerialNumber.String()] = true
		}
		lists[string(crl.RawIssuer)] = l
	}
	return lists, nil
}
