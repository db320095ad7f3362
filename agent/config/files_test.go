package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent/config"
)

// keyPair gives a self-signed certificate and its key in PEM form.
func keyPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte, perm os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), perm); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := keyPair(t)
	_, otherKey := keyPair(t)
	put("cert", cert, 0o644)
	put("tlskey", key, 0o600)
	for _, name := range []string{"host", "name", "sign", "tokens"} {
		put(name, []byte("x"), 0o640)
	}
	put("freeze", []byte("#!/bin/sh"), 0o755)
	text := strings.ReplaceAll(`
host_id: h1
tls: {cert_file: DIR/cert, key_file: DIR/tlskey}
tokens_file: DIR/tokens
store: {url: file:///backups, name_key_file: DIR/name}
key_file: DIR/host
signing_key_file: DIR/sign
report: {url: "https://control.example.com/r"}
instances:
- id: a
  tenant: t
  runtime: {exec: {freeze: [DIR/freeze], thaw: [DIR/freeze], power_down: [DIR/freeze]}}
  volumes: [{name: data, path: /absent/volumes/are/no/fault}]
`, "DIR", dir)
	c, err := config.Parse([]byte(text), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckFiles(); err != nil {
		t.Fatalf("good files: %v", err)
	}

	put("tlskey", otherKey, 0o600)
	put("host", []byte("x"), 0o644)
	put("sign", nil, 0o600)
	put("freeze", nil, 0o644)
	if err := os.Remove(filepath.Join(dir, "name")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = c.CheckFiles()
	var faults *config.Faults
	if !errors.As(err, &faults) {
		t.Fatalf("not Faults: %v", err)
	}
	for _, want := range []string{
		"x:3:",
		"tls.key_file: does not go with tls.cert_file",
		"x:6:11: key_file: ", "its mode 0644 gives it to everybody; chmod o= " + dir + "/host",
		"signing_key_file: ", "sign\" is empty",
		"store.name_key_file: there is no file ",
		"tokens_file: ", "is not a regular file",
		"instances[0].runtime.exec.freeze[0]: ", "is not executable",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}

	// A Config made in code has no places, and is checked all the same.
	bare := &config.Config{KeyFile: filepath.Join(dir, "absent")}
	if err := bare.CheckFiles(); err == nil || !strings.Contains(err.Error(), "key_file: there is no file") {
		t.Errorf("without source: %v", err)
	}
}
