package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/model"
)

// authority issues certificates and revocation lists.
type authority struct {
	t      *testing.T
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
	return a
}

func (a *authority) make(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	c.SerialNumber = big.NewInt(a.serial)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(24 * time.Hour)
	}
	c.NotBefore = time.Now().Add(-time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

// client gives a caller's certificate.
func (a *authority) client(c x509.Certificate) tls.Certificate {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, key := a.make(&c)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// server writes a listener's certificate.
func (a *authority) server(dir string) *x509.Certificate {
	cert, key := a.make(&x509.Certificate{DNSNames: []string{"host"}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
	write(a.t, filepath.Join(dir, "cert.pem"), encode(cert), 0o600)
	return cert
}

func encode(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// revoke gives a revocation list in DER.
func (a *authority) revoke(next time.Time, serials ...*big.Int) []byte {
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// doorway is a listener that tells whom it took a caller for.
type doorway struct {
	t    *testing.T
	tls  *auth.TLS
	l    net.Listener
	root *x509.CertPool
	seen chan seen
}

type seen struct {
	conn  *tls.Conn
	state tls.ConnectionState
}

func newDoorway(t *testing.T, o auth.TLSOptions, root *x509.CertPool) *doorway {
	t.Helper()
	d := &doorway{t: t, root: root, seen: make(chan seen, 10)}
	var err error
	if d.tls, err = auth.NewTLS(o); err != nil {
		t.Fatal(err)
	}
	if d.l, err = tls.Listen("tcp", "127.0.0.1:0", d.tls.Config()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := d.l.Accept()
			if err != nil {
				return
			}
			conn := c.(*tls.Conn)
			if conn.Handshake() == nil {
				_, _ = conn.Write([]byte{1})
				d.seen <- seen{conn, conn.ConnectionState()}
				continue
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = d.l.Close(); <-ended })
	return d
}

// enter connects with a certificate (nil: none) and returns the server's view of the
// caller, or false where it was refused.
func (d *doorway) enter(c *tls.Certificate, versions ...uint16) (seen, *x509.Certificate, bool) {
	d.t.Helper()
	cfg := &tls.Config{RootCAs: d.root, ServerName: "host", MinVersion: tls.VersionTLS12}
	if len(versions) > 0 {
		cfg.MaxVersion = versions[0]
	}
	if c != nil {
		// Certificates is no use here: with it, a client sends only a certificate of an
		// authority in the server's list.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
	}
	conn, err := tls.Dial("tcp", d.l.Addr().String(), cfg)
	if err != nil {
		return seen{}, nil, false
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	// a refusal comes after the client's part of the handshake
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return seen{}, nil, false
	}
	s := <-d.seen
	d.t.Cleanup(func() { _ = s.conn.Close() })
	return s, conn.ConnectionState().PeerCertificates[0], true
}

func TestCertificatesSayWhoCalls(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	own, callers, others := newAuthority(t, "own"), newAuthority(t, "callers"), newAuthority(t, "others")
	first := own.server(dir)
	root := x509.NewCertPool()
	root.AddCert(own.cert)
	write(t, in("clients.pem"), encode(callers.cert), 0o644)
	mail, err := url.Parse("spiffe://fleet/reader")
	if err != nil {
		t.Fatal(err)
	}
	plane := callers.client(x509.Certificate{Subject: pkix.Name{CommonName: "plane.example.com"}})
	reader := callers.client(x509.Certificate{Subject: pkix.Name{CommonName: "x"}, URIs: []*url.URL{mail}})
	nobody := callers.client(x509.Certificate{Subject: pkix.Name{CommonName: "plane.example.com.evil"}, DNSNames: []string{"*.example.com"}})
	forged := others.client(x509.Certificate{Subject: pkix.Name{CommonName: "plane.example.com"}})
	stale := callers.client(x509.Certificate{Subject: pkix.Name{CommonName: "plane.example.com"}, NotAfter: time.Now().Add(-time.Minute)})
	c := &clock{t: time.Now()}
	later := func(f func()) {
		t.Helper()
		f()
		c.advance(2 * time.Second)
	}
	write(t, in("crl"), string(callers.revoke(time.Now().Add(time.Hour))), 0o644)
	d := newDoorway(t, auth.TLSOptions{
		CertFile: in("cert.pem"), KeyFile: in("key.pem"), ClientCAFile: in("clients.pem"), CRLFile: in("crl"), Now: c.now,
		Clients: []auth.Client{
			{Name: "plane.example.com", Caller: model.Caller{Role: model.RoleControlPlane}},
			{Name: "spiffe://fleet/reader", Caller: model.Caller{Role: model.RoleReadOnly, Tenant: "t1"}},
		},
	}, root)
	expect := func(what string, cert *tls.Certificate, role model.Role, in bool) (s seen) {
		t.Helper()
		s, _, entered := d.enter(cert)
		if entered != in {
			t.Errorf("%s: entered %v", what, entered)
		}
		if !entered {
			return s
		}
		got, name, found, err := d.tls.Caller(&s.state)
		if err != nil || got.Role != role || found != (role != "") || found != (name != "") {
			t.Errorf("%s: %+v %q %v %v", what, got, name, found, err)
		}
		return s
	}
	old := expect("by common name", &plane, model.RoleControlPlane, true)
	expect("by URI", &reader, model.RoleReadOnly, true)
	expect("none", nil, "", true)
	expect("a name of nobody", &nobody, "", true)
	expect("of another authority", &forged, "", false)
	expect("expired", &stale, "", false)
	if _, _, entered := d.enter(&plane, tls.VersionTLS12); entered {
		t.Error("TLS 1.2 was taken")
	}

	// Revoked: no new connection, and none of the old is believed.
	later(func() {
		write(t, in("crl"), string(callers.revoke(time.Now().Add(time.Hour), plane.Leaf.SerialNumber)), 0o644)
	})
	expect("revoked", &plane, "", false)
	expect("another after a revocation", &reader, model.RoleReadOnly, true)
	if _, _, _, err := d.tls.Caller(&old.state); !errors.Is(err, model.ErrUnknownToken) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked, on an old connection: %v", err)
	}
	// A list that can't be trusted lets nobody in by certificate, but does not keep the others out.
	for what, crl := range map[string][]byte{
		"broken list": []byte("x"), "empty list": nil, "of another authority": others.revoke(time.Now().Add(time.Hour)), "past its update": callers.revoke(time.Now().Add(-time.Second)),
	} {
		later(func() { write(t, in("crl"), string(crl), 0o644) })
		expect(what, &reader, "", false)
		expect(what+", no certificate", nil, "", true)
		if _, _, _, err := d.tls.Caller(&old.state); !errors.Is(err, model.ErrAuthUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	later(func() {
		text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: callers.revoke(time.Now().Add(time.Hour))})
		write(t, in("crl"), string(text), 0o644)
	})
	expect("no longer revoked", &plane, model.RoleControlPlane, true)

	// Another authority is added.
	later(func() { write(t, in("clients.pem"), encode(callers.cert)+encode(others.cert), 0o644) })
	if _, _, entered := d.enter(&forged); entered {
		t.Error("a new authority without a revocation list was believed")
	}
	later(func() {
		text := append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: callers.revoke(time.Now().Add(time.Hour))}),
			pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: others.revoke(time.Now().Add(time.Hour))})...)
		write(t, in("crl"), string(text), 0o644)
	})
	expect("of a new authority", &forged, model.RoleControlPlane, true)

	// The listener's own certificate: renewed, then broken.
	if _, served, _ := d.enter(nil); !served.Equal(first) {
		t.Error("the first certificate is not served")
	}
	var second *x509.Certificate
	later(func() { second = own.server(dir) })
	if _, served, _ := d.enter(nil); !served.Equal(second) {
		t.Error("the renewed certificate is not served")
	}
	later(func() {
		if err := os.Remove(in("key.pem")); err != nil {
			t.Fatal(err)
		}
	})
	if _, served, entered := d.enter(nil); !entered || !served.Equal(second) {
		t.Error("the last good certificate is not served")
	}
	if when, err := d.tls.Expiry(); err == nil || !when.Equal(second.NotAfter) {
		t.Errorf("expiry %v, %v", when, err)
	}
}

func TestCertificateRequired(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, "a")
	a.server(dir)
	ca := filepath.Join(dir, "ca.pem")
	write(t, ca, encode(a.cert), 0o644)
	root := x509.NewCertPool()
	root.AddCert(a.cert)
	o := auth.TLSOptions{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientCAFile: ca, Require: true}
	d := newDoorway(t, o, root)
	if _, _, entered := d.enter(nil); entered {
		t.Error("entered without a certificate")
	}
	someone := a.client(x509.Certificate{Subject: pkix.Name{CommonName: "any"}})
	if s, _, entered := d.enter(&someone); !entered {
		t.Error("refused")
	} else if _, _, found, err := d.tls.Caller(&s.state); found || err != nil {
		t.Errorf("%v %v", found, err)
	}
	for _, broken := range []auth.TLSOptions{
		{CertFile: o.CertFile, KeyFile: o.CertFile},
		{CertFile: o.CertFile, KeyFile: o.KeyFile, ClientCAFile: o.KeyFile},
		{CertFile: o.CertFile, KeyFile: o.KeyFile, ClientCAFile: ca, CRLFile: ca},
	} {
		if _, err := auth.NewTLS(broken); err == nil {
			t.Errorf("%+v is taken", broken)
		}
	}
}
