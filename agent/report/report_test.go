package report_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/agent/model"
	"holdfast/agent/report"
)

func statement() report.Statement {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	return report.Statement{
		Version: 1, Instance: "phone-1", Tenant: "acme", Task: "t", Job: "j", Vault: "00", Backup: "b", Object: "v/backups/b",
		ManifestSHA256: "aa", Store: "s3://bucket", Files: 3, Dirs: 1, Bytes: 10, BytesSent: 5, Frozen: at, FreezeSeconds: 1.5,
		Stored: at, Verified: at, Verification: "manifest", Host: "h", Agent: "1.0",
	}
}

func TestReceiptRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.pem")
	s, err := report.LoadSigner(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := report.LoadSigner(path, rand.Reader)
	if err != nil || !again.PublicKey().Equal(s.PublicKey()) {
		t.Errorf("the key changed: %v", err)
	}
	pub, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := report.ParsePublic(pub)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := s.Sign(t.Context(), statement())
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.Verify(t.Context(), receipt, other, key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(statement(), got); diff != "" {
		t.Error(diff)
	}
	if _, err := report.Verify(t.Context(), receipt, other); !errors.Is(err, report.ErrSignature) {
		t.Errorf("other key: %v", err)
	}
	if _, err := report.Verify(t.Context(), receipt); !errors.Is(err, report.ErrSignature) {
		t.Errorf("no key: %v", err)
	}
}

func TestForgedReceiptsAreRefused(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := report.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := s.Sign(t.Context(), statement())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(m map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(receipt, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		receipt []byte
		want    error
	}{
		"another instance": {edit(func(m map[string]any) {
			body, _ := base64.StdEncoding.DecodeString(m["payload"].(string))
			m["payload"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(body), "phone-1", "phone-2", 1)))
		}), report.ErrSignature},
		"another type": {edit(func(m map[string]any) { m["payloadType"] = "text/plain" }), report.ErrNotReceipt},
		"no signature": {edit(func(m map[string]any) { delete(m, "signatures") }), report.ErrSignature},
		"no JSON":      {[]byte("{"), report.ErrNotReceipt},
		"empty":        {nil, report.ErrNotReceipt},
	} {
		if _, err := report.Verify(t.Context(), c.receipt, public); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSigningKeyFaults(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open.pem")
	if _, err := report.LoadSigner(open, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string]string{
		open: "others can read it", junk: "no PEM block", filepath.Join(dir, "no", "where"): "make signing key",
	} {
		if _, err := report.LoadSigner(path, rand.Reader); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestEventRoundTrip(t *testing.T) {
	e := model.Event{
		ID: "j-7", Type: "holdfast.backup.completed", Instance: "phone-1",
		Time: time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC), Data: json.RawMessage(`{"receipt":{"a":1}}`),
	}
	b, err := report.Encode(e, "holdfast://host-1")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"specversion": "1.0", "id": "j-7", "type": "holdfast.backup.completed", "source": "holdfast://host-1", "subject": "phone-1",
		"time": "2026-11-23T12:00:00.000000005Z", "datacontenttype": "application/json",
		"data": map[string]any{"receipt": map[string]any{"a": 1.0}},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	got, source, err := report.Decode(b)
	if err != nil || source != "holdfast://host-1" {
		t.Errorf("%s, %v", source, err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckURL(t *testing.T) {
	for raw, ok := range map[string]bool{
		"https://control.example/events": true, "http://127.0.0.1:8080/x": true, "http://[::1]:1/": true, "http://localhost/": true,
		"http://control.example/": false, "http://10.0.0.1/": false, "ftp://127.0.0.1/": false, "": false, "https://": false,
		"https://u:p@control.example/": false, "http://127.0.0.1.example/": false,
	} {
		if err := report.CheckURL(raw); (err == nil) != ok {
			t.Errorf("%q: %v", raw, err)
		} else if err != nil && strings.Contains(err.Error(), ":p@") {
			t.Errorf("the password is shown: %v", err)
		}
	}
}
