package seal_test

import (
	"errors"
	"testing"

	"holdfast/internal/seal"
)

// TestUnknownMethod: bytes that open, and are compressed by a method that this version does not
// know, are not damaged. Changed bytes are damaged, whatever their method says.
func TestUnknownMethod(t *testing.T) {
	aead := seal.NewAEAD([32]byte{1})
	sealed := make([]byte, 3+seal.Overhead)
	seal.Seal(aead, nonce(1), nil, 9, []byte("new"), sealed)
	changed := append([]byte(nil), sealed...)
	changed[len(changed)-1] ^= 1
	if _, err := seal.Open(aead, nonce(1), nil, sealed, nil, 3); !errors.Is(err, seal.ErrMethod) || errors.Is(err, seal.ErrOpen) {
		t.Errorf("an unknown method: %v", err)
	}
	if _, err := seal.Open(aead, nonce(1), nil, changed, nil, 3); !errors.Is(err, seal.ErrOpen) || errors.Is(err, seal.ErrMethod) {
		t.Errorf("changed bytes: %v", err)
	}
}
