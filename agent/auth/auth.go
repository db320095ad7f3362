// Package auth finds the holder of a token, and the holder's role.
//
// The API asks an Authenticator on every call. Static answers from a file of hashed
// tokens, IAM from Keystone v3; Chain asks several.
//
// Package agent gives an Authenticator to agent/api; the two packages are of one level and do
// not know each other, and callers and roles are the types of agent/model. Each look-up at IAM
// runs on a goroutine of its own, which ends within IAMOptions.Timeout and may outlive the call
// that began it. The package writes nothing.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"

	"holdfast/agent/model"
)

// Authenticator returns the holder of a token, or ErrUnknownToken, ErrAuthUnavailable or
// ErrAuthTooOften (wrapped, with the reason; never with the token). It may be called from
// many goroutines at the same time, and returns early when ctx ends.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (model.Caller, error)
}

// Chain asks one after the other until one knows the token. When none does, and one
// of them can't tell, nobody is let in with that error: the token may be right.
type Chain []Authenticator

// Authenticate returns the holder of the token.
func (c Chain) Authenticate(ctx context.Context, token string) (model.Caller, error) {
	var unavailable error
	for _, a := range c {
		caller, err := a.Authenticate(ctx, token)
		switch {
		case err == nil:
			return caller, nil
		case !errors.Is(err, model.ErrUnknownToken):
			unavailable = errors.Join(unavailable, err)
		}
	}
	if unavailable != nil {
		return model.Caller{}, unavailable
	}
	return model.Caller{}, model.ErrUnknownToken
}

// hashPrefix names the hash in files, so that another can come beside it.
const hashPrefix = "sha256:"

// HashToken gives a token as it stands in a file: sha256: and 64 hex digits. A
// plain hash will do, as tokens are random (NewToken), not chosen by people.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// NewToken makes a token of 256 random bits, as 43 characters that need no quoting.
func NewToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}
