package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/internal/vault"
)

// site is a folder with a configuration and all that it names.
type site struct {
	t   *testing.T
	dir string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	s.put("host.key", string(text))
	s.put("tokens", auth.HashToken("a-token")+" role=control-plane\n")
	s.certificate(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	s.put("holdfast.yaml", strings.ReplaceAll(`host_id: h1
listen: 127.0.0.1:0
tls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem}
tokens_file: DIR/tokens
state_dir: DIR/state
store: {url: file://DIR/store}
key_file: DIR/host.key
recipients:
  - `+id.Recipient()+`
report: {url: "https://plane.example.com/"}
instances: []
`, "DIR", s.dir))
	return s
}

func (s *site) put(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) certificate(from, to time.Time) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to},
		&x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.put("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

func (s *site) path() string { return filepath.Join(s.dir, "holdfast.yaml") }

// TestCheckConfigContents: what would end the agent at its start,
// or fail its first job, is told with its place before.
func TestCheckConfigContents(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*site)
		fault  string // "" is valid
		starts bool   // the agent starts all the same
	}{
		"all well": {func(*site) {}, "", true},
		"placeholder of the example": {func(s *site) {
			text, err := os.ReadFile(s.path())
			if err != nil {
				s.t.Fatal(err)
			}
			_, example, _ := strings.Cut(string(config.Example), "\n  - age1")
			placeholder, _, _ := strings.Cut(example, "\n")
			at := bytes.Index(text, []byte("  - age1"))
			s.put("holdfast.yaml", string(text[:at])+"  - age1"+placeholder+"\nreport: {url: \"https://plane.example.com/\"}\n")
		}, "holdfast.yaml:9:5: recipients[0]: recipient", false},
		"key is none":        {func(s *site) { s.put("host.key", "hello\n") }, "holdfast.yaml:7:11: key_file: key ", false},
		"tokens not hashed":  {func(s *site) { s.put("tokens", "a\nb\n") }, ":1: must begin with sha256: and 64 hex digits; tokens file", false},
		"tokens for a group": {func(s *site) { _ = os.Chmod(filepath.Join(s.dir, "tokens"), 0o620) }, "holdfast.yaml:4:14: tokens_file: tokens file", false},
		"expired": {func(s *site) {
			s.certificate(time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
		}, "holdfast.yaml:3:18: tls.cert_file: the certificate ", true},
		"not yet": {func(s *site) {
			s.certificate(time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour))
		}, "is not valid before", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c.spoil(s)
			var stdout, stderr bytes.Buffer
			code := run([]string{"--config", s.path(), "check-config"}, &stdout, &stderr)
			if want := map[bool]int{true: exitDone, false: exitConfig}[c.fault == ""]; code != want || !strings.Contains(stderr.String(), c.fault) {
				t.Errorf("exit code %d, %s", code, stderr.String())
			}
			if strings.Count(stderr.String(), "\n") > 1 {
				t.Errorf("more than a line for one fault: %s", stderr.String())
			}
			_, err := load(s.path())
			var faults *config.Faults
			if (err == nil) != c.starts || err != nil && !errors.As(err, &faults) {
				t.Errorf("the agent's own check: %v", err)
			}
		})
	}
}

// TestLogsDoNotAct: names from instances are in no form of the log as they are.
func TestLogsDoNotAct(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, err := newLogger(&config.Config{Log: config.Log{Level: "info", Format: format}}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not restored exactly", "reason", "a\x1b[31m\u009b0m\u202e\nlevel=ERROR msg=forged")
		line, rest, _ := strings.Cut(out.String(), "\n")
		if rest != "" || strings.ContainsAny(line, "\x1b\u009b\u202e") || !strings.Contains(line, `\u202e`) {
			t.Errorf("%s: %q", format, out.String())
		}
	}
}
