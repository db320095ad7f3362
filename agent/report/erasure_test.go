package report_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/agent/report"
	"holdfast/internal/vault"
)

// TestErasureStatement: the signed content comes back, and
// nothing else: no other key, no other bytes, and no receipt.
func TestErasureStatement(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := report.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	want := report.ErasureStatement{Host: "h1", Agent: "1.2.3", Erasure: vault.Erasure{
		Vault: "0123", Store: "s3://b", Begun: time.Unix(1, 0).UTC(), Ended: time.Unix(2, 0).UTC(), Runs: 2,
		Headers: []vault.ErasedHeader{{Object: "0123/vault.json", SHA256: "ab"}},
		Found:   vault.ErasedCount{Objects: 7, Bytes: 70}, Removed: map[string]vault.ErasedCount{"packs": {Objects: 5, Bytes: 50}},
		Versions: vault.VersionsRemoved, HeadersGone: true, EmptyLists: []time.Time{time.Unix(3, 0).UTC()}, Complete: true,
	}}
	signed, err := s.SignErasure(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.VerifyErasure(t.Context(), signed, other, public)
	if err != nil {
		t.Fatal(err)
	}
	want.Version, want.NotProved = report.ErasureVersion, report.NotProved()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the statement changed (-signed +verified):\n%s", d)
	}
	if len(got.NotProved) < 5 {
		t.Errorf("the statement says that it proves all but %q", got.NotProved)
	}
	if _, err := report.VerifyErasure(t.Context(), signed, other); !errors.Is(err, report.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if _, err := report.VerifyErasure(t.Context(), signed); !errors.Is(err, report.ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	var envelope map[string]any
	if err := json.Unmarshal(signed, &envelope); err != nil {
		t.Fatal(err)
	}
	envelope["payload"] = "e30="
	changed, err := json.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.VerifyErasure(t.Context(), changed, public); !errors.Is(err, report.ErrSignature) {
		t.Errorf("other bytes: %v", err)
	}
	receipt, err := s.Sign(t.Context(), statement())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.VerifyErasure(t.Context(), receipt, public); !errors.Is(err, report.ErrNotReceipt) {
		t.Errorf("a receipt: %v", err)
	}
	if _, err := report.Verify(t.Context(), signed, public); !errors.Is(err, report.ErrNotReceipt) {
		t.Errorf("as a receipt: %v", err)
	}
	if _, err := report.VerifyErasure(t.Context(), bytes.Trim(signed, "{"), public); !errors.Is(err, report.ErrNotReceipt) {
		t.Errorf("no JSON: %v", err)
	}
}
