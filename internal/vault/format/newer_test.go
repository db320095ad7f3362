package format_test

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"testing"

	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// TestChunkOfALaterVersion: a chunk that opens, and is compressed by a method that this version
// does not know, was made by a later version. A changed chunk is damaged.
func TestChunkOfALaterVersion(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	loc := format.Loc{Off: format.PackHeader, Raw: 4}
	for name, c := range map[string]struct {
		method  seal.Method
		changed bool
		want    error
	}{"newer": {9, false, format.ErrNewer}, "damaged": {9, true, format.ErrCorrupt}, "known": {seal.Raw, false, nil}} {
		sealed := make([]byte, 4+seal.Overhead)
		seal.Seal(aead, format.Nonce(loc.Off), format.ChunkAAD(format.Content), c.method, []byte("text"), sealed)
		if c.changed {
			sealed[0] ^= 1
		}
		plain, err := format.OpenChunk(aead, "v/packs/p", format.Content, loc, sealed, nil)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || errors.Is(err, format.ErrNewer) && errors.Is(err, format.ErrCorrupt) {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
}
