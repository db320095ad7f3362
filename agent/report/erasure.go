package report

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/internal/vault"
)

// ErasurePayloadType is the DSSE payload type of a statement that a vault was erased.
const ErasurePayloadType = "application/vnd.holdfast.erasure+json"

// ErasureVersion is the version of ErasureStatement that this package writes.
const ErasureVersion = 1

// NotProved lists the facts that no erasure can prove, in sentences for the tenant.
func NotProved() []string {
	return []string{
		"Copies of the vault in other stores (holdfast copy, replication of buckets, backups of the store itself) are not seen from here.",
		"A party that kept the vault's key, or a copy of a header with a matching identity, can read objects that the party kept as well.",
		"Old versions of objects that the store keeps beside its lists are gone only where \"versions\" says none or removed.",
		"Objects counted under \"kept\" are in the store until their locks end; without a header and without the vault's key they are ciphertext.",
		"Catalogues, index caches and base snapshots on the hosts of the tenant are not in the store, and are removed on each host.",
		"That a confirmed delete reached every replica and every medium of the store is the promise of the store's operator.",
	}
}

// ErasureStatement states which vault was erased, how
// much was removed, and which facts are not proved.
type ErasureStatement struct {
	Version int    `json:"version"`
	Host    string `json:"host"`  // that erased
	Agent   string `json:"agent"` // version of the program
	vault.Erasure
	NotProved []string `json:"not_proved"`
}

// SignErasure returns the statement as a DSSE envelope in JSON. It sets the version and NotProved.
func (s *Signer) SignErasure(ctx context.Context, statement ErasureStatement) (json.RawMessage, error) {
	statement.Version, statement.NotProved = ErasureVersion, NotProved()
	body, err := json.Marshal(statement)
	if err != nil {
		return nil, fmt.Errorf("encode the statement of an erasure: %w", err)
	}
	return s.seal(ctx, ErasurePayloadType, body)
}

// VerifyErasure returns the content of a signed statement, if one of the keys
// signed the statement: else ErrSignature, or ErrNotReceipt where the bytes
// can't be read or are of a version that this package does not know.
func VerifyErasure(ctx context.Context, envelope []byte, keys ...ed25519.PublicKey) (ErasureStatement, error) {
	body, err := unseal(ctx, ErasurePayloadType, envelope, keys)
	if err != nil {
		return ErasureStatement{}, err
	}
	var s ErasureStatement
	if err := json.Unmarshal(body, &s); err != nil {
		return ErasureStatement{}, fmt.Errorf("%w: %w", ErrNotReceipt, err)
	}
	if s.Version != ErasureVersion {
		return ErasureStatement{}, fmt.Errorf("%w: version %d", ErrNotReceipt, s.Version)
	}
	return s, nil
}

// seal signs a body.
func (s *Signer) seal(ctx context.Context, payloadType string, body []byte) (json.RawMessage, error) {
	envelope, err := s.envelope.SignPayload(ctx, payloadType, body)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	b, err := json.Marshal(envelope)
	if err != nil {
		return nil, fmt.Errorf("encode signature: %w", err)
	}
	return b, nil
}

// unseal returns the body that one of the keys signed.
func unseal(ctx context.Context, payloadType string, signed []byte, keys []ed25519.PublicKey) ([]byte, error) {
	var envelope dsse.Envelope
	if err := json.Unmarshal(signed, &envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReceipt, err)
	}
	if envelope.PayloadType != payloadType {
		return nil, fmt.Errorf("%w: payload type %q", ErrNotReceipt, envelope.PayloadType)
	}
	verifiers := make([]dsse.Verifier, len(keys))
	for i, key := range keys {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("key %d has %d bytes", i, len(key))
		}
		verifiers[i] = ed25519Key{public: key}
	}
	verifier, err := dsse.NewEnvelopeVerifier(verifiers...)
	if err != nil {
		return nil, fmt.Errorf("%w: no key given", ErrSignature)
	}
	_, body, err := verifier.VerifyAndDecode(ctx, &envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return body, nil
}
