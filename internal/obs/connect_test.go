package obs_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/proxytest"
)

// writePEM writes a block to a file of its own.
func writePEM(t *testing.T, name, kind string, der []byte, perm os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), perm); err != nil {
		t.Fatal(err)
	}
	return path
}

// clientPair makes a certificate for a client, signed by its own key.
func clientPair(t *testing.T) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, writePEM(t, "cert.pem", "CERTIFICATE", der, 0o644), writePEM(t, "key.pem", "PRIVATE KEY", keyDER, 0o600)
}

// TestPrivateStore: a store with a certificate of its own
// authority, which wants one of its clients as well.
func TestPrivateStore(t *testing.T) {
	client, certFile, keyFile := clientPair(t)
	server := httptest.NewUnstartedServer(proxytest.NewBucket())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	server.TLS.ClientCAs.AddCert(client)
	server.StartTLS()
	defer server.Close()
	ca := writePEM(t, "ca.pem", "CERTIFICATE", server.Certificate().Raw, 0o644)
	url := "s3://" + proxytest.BucketName + "?region=r&endpoint=" + server.URL
	for query, want := range map[string]error{
		"&ca-file=" + ca + "&client-cert=" + certFile + "&client-key=" + keyFile: nil,
		"&client-cert=" + certFile + "&client-key=" + keyFile:                    obs.ErrUsage,
		// the server's TLS alert arrives with the first read
		"&ca-file=" + ca: obs.ErrUnavailable,
	} {
		err := open(t, url+query, obs.Options{Getenv: keys, Retry: &once}).Put(t.Context(), "k", []byte("x"))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", query, err, want)
		}
	}
	if err := os.Chmod(keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	notCA := filepath.Join(t.TempDir(), "none.pem")
	if err := os.WriteFile(notCA, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for query, says := range map[string]string{
		"&client-cert=" + certFile + "&client-key=" + keyFile: "gives them to everybody",
		"&client-cert=" + certFile:                            "go together",
		"&ca-file=" + notCA:                                   "no certificate",
		"&ca-file=relative.pem":                               "absolute",
		"&ca-file=/none.pem":                                  "no such file",
		"&family=5":                                           "4 or 6",
		"&connect-timeout=1ms":                                "from 100ms",
		"&connect-timeout=soon":                               "such as 5s",
		"&proxy=ftp://x":                                      "want http://",
		"&proxy=http://u:p@x":                                 "HOLDFAST_PROXY_CREDENTIALS",
	} {
		_, err := obs.Open(t.Context(), url+query, obs.Options{Getenv: keys})
		if !errors.Is(err, obs.ErrUsage) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want ErrUsage that says %q", query, err, says)
		}
	}
}

// TestAddressFamily: an end point with addresses of the other family only is not reached.
func TestAddressFamily(t *testing.T) {
	server := httptest.NewServer(proxytest.NewBucket())
	defer server.Close()
	for family, works := range map[string]bool{"": true, "&family=4": true, "&family=6": false} {
		s := open(t, "s3://"+proxytest.BucketName+"?region=r&proxy=none&connect-timeout=5s&endpoint="+server.URL+family, obs.Options{Getenv: keys, Retry: &once})
		if err := s.Put(t.Context(), "k", nil); (err == nil) != works || obs.Uncertain(err) {
			t.Errorf("%q: %v, want success: %v", family, err, works)
		}
	}
}

// TestProxy: a refusal by a proxy is reported as the proxy's, at once, and the client
// sends the proxy's user and password.
func TestProxy(t *testing.T) {
	var status atomic.Int64
	var seen atomic.Pointer[string]
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		auth := r.Header.Get("Proxy-Authorization")
		seen.Store(&auth)
		w.WriteHeader(int(status.Load()))
	}))
	defer proxy.Close()
	getenv := func(name string) string {
		if name == "HOLDFAST_PROXY_CREDENTIALS" {
			return "someone:his password"
		}
		return keys(name)
	}
	for _, c := range []struct {
		status   int
		endpoint string
		want     error
		tries    int64
	}{
		{407, "https://store.invalid", obs.ErrProxy, 1},
		{403, "https://store.invalid", obs.ErrProxy, 1},
		{503, "https://store.invalid", obs.ErrUnavailable, 3},
		{407, "http://store.invalid", obs.ErrProxy, 1},
	} {
		status.Store(int64(c.status))
		asked.Store(0)
		s := open(t, "s3://bucket?region=r&endpoint="+c.endpoint+"&proxy="+proxy.URL, obs.Options{Getenv: getenv, Retry: &obs.RetryPolicy{MaxAttempts: 3, Base: 1, Cap: 1}})
		err := s.Put(t.Context(), "k", []byte("x"))
		if !errors.Is(err, c.want) || asked.Load() != c.tries || obs.Uncertain(err) {
			t.Errorf("proxy that answers %d for %s: %v after %d requests, want %v after %d", c.status, c.endpoint, err, asked.Load(), c.want, c.tries)
		}
		if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("someone:his password")); *seen.Load() != want {
			t.Errorf("the proxy got %q, want %q", *seen.Load(), want)
		}
		if strings.Contains(fmt.Sprint(err), "password") || strings.Contains(s.String(), "someone") {
			t.Errorf("%v or %s shows a secret", err, s)
		}
	}
	// A proxy that lets the request pass.
	store := httptest.NewServer(proxytest.NewBucket())
	defer store.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go passOn(l, store.Listener.Addr().String())
	s := open(t, "s3://"+proxytest.BucketName+"?region=r&endpoint=http://store.invalid&proxy=http://"+l.Addr().String(), obs.Options{Getenv: keys, Retry: &once})
	if err := s.Put(t.Context(), "k", []byte("x")); err != nil {
		t.Error(err)
	}
}

// passOn is a proxy for one request.
func passOn(l net.Listener, to string) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	req.Close = true
	if req.Write(out) == nil {
		_, _ = io.Copy(conn, out)
	}
}

// TestNoSuchHost: a name that the name service does not know is not asked for during an hour.
func TestNoSuchHost(t *testing.T) {
	tries := 0
	opts := obs.Options{Getenv: keys, Retry: &obs.RetryPolicy{Base: 1, Cap: 1}, Observe: func(obs.Event) { tries++ }}
	opts = obs.WithTransport(opts, func(tr *http.Transport) {
		tr.Proxy = nil
		tr.DialContext = nil
		tr.Dial = func(string, string) (net.Conn, error) { //nolint:staticcheck // it needs no context
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "store.invalid", IsNotFound: true}}
		}
	})
	err := open(t, "s3://bucket?region=r&endpoint=http://store.invalid", opts).Put(t.Context(), "k", nil)
	if !errors.Is(err, obs.ErrNoHost) || errors.Is(err, obs.ErrUnavailable) || tries != 3 || !strings.Contains(obs.Hint(err), "endpoint") {
		t.Errorf("%v after %d tries, want ErrNoHost after 3", err, tries)
	}
}

// TestRefusalsByWords: some refusals about keys and policies have no code of their own,
// so the store's message decides their class.
func TestRefusalsByWords(t *testing.T) {
	var words string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>%s</Message></Error>", words)
	}))
	defer server.Close()
	s := open(t, "s3://bucket?region=r&endpoint="+server.URL, obs.Options{Getenv: keys, Retry: &once})
	for text, want := range map[string]error{
		"User: x is not authorized to perform: s3:PutObject with an explicit deny in a resource-based policy": obs.ErrPolicy,
		"User: x is not authorized to perform: kms:GenerateDataKey on resource: y":                            obs.ErrKMS,
		"Access Denied.": obs.ErrAccess,
	} {
		words = text
		err := s.Put(t.Context(), "k", nil)
		checkClass(t, text, err, want)
		if obs.Hint(err) == "" {
			t.Errorf("%s: no hint", text)
		}
	}
}
