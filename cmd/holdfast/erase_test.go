package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/report"
)

// TestEraseAsks: a person at a terminal is asked for the vault's name, and the statement is signed.
func TestEraseAsks(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{envStore: "file://" + dir + "/store", envKey: dir + "/host.key"}
	do := func(answer string, args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		code = run(args, world{
			stdin: strings.NewReader(answer), inTerminal: true, stdout: &stdout, stderr: &stderr,
			getenv: func(name string) string { return env[name] },
		})
		return code, stdout.String(), stderr.String()
	}
	for _, args := range [][]string{{"key", "new", "--out", dir + "/host.key"}, {"vault", "create", "--vault", "acme"}} {
		if code, _, errs := do("", args...); code != 0 {
			t.Fatalf("%v: %s", args, errs)
		}
	}
	key := filepath.Join(dir, "signing.key")
	signer, err := report.LoadSigner(key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	erase := []string{"vault", "erase", "--vault", "acme", "--wait", "0s", "--sign-key", key, "--statement", dir + "/statement"}
	for _, answer := range []string{"acm\n", "yes\n", "\n", ""} {
		code, out, errs := do(answer, erase...)
		if code == 0 || out != "" || !strings.Contains(errs, "Type the vault's name to erase it: ") {
			t.Errorf("answer %q: code %d, %s%s", answer, code, out, errs)
		}
	}
	if code, _, errs := do("", "vault", "info", "--vault", "acme"); code != 0 {
		t.Fatalf("the vault is gone: %s", errs)
	}
	if code, _, errs := do(" acme \n", erase...); code != 0 {
		t.Fatalf("erase: %s", errs)
	}
	signed, err := os.ReadFile(dir + "/statement")
	if err != nil {
		t.Fatal(err)
	}
	s, err := report.VerifyErasure(t.Context(), signed, signer.PublicKey())
	if err != nil || !s.Complete || !s.HeadersGone || len(s.Headers) != 1 {
		t.Errorf("statement: %+v, %v", s, err)
	}
}
