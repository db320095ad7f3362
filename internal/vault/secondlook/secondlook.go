// Package secondlook reads an object of a store again, over another connection, when the object
// seems damaged. A bit that flips on the way would otherwise make a restore fail for good, and a
// flipped bit of a header would look like the wrong key.
//
// Callers are internal/vault and internal/vault/index. The package starts no goroutine and keeps
// no state.
package secondlook

import (
	"context"
	"errors"

	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// Damaged tells whether bytes that changed on their way can be the cause of err.
func Damaged(err error) bool {
	return errors.Is(err, format.ErrCorrupt) || errors.Is(err, format.ErrWrongKey) || errors.Is(err, format.ErrNewer)
}

// Read calls read, which reads and opens the object of that key, and calls it once more over a new
// connection when the object seems damaged. The store's observer is told when the second reading
// finds the object sound. Read returns the result and the error of the last call.
func Read[T any](ctx context.Context, st obs.Store, key string, read func(context.Context) (T, error)) (T, error) {
	first, err := read(ctx)
	if !Damaged(err) {
		return first, err
	}
	second, err := read(obs.Afresh(ctx))
	if err == nil {
		obs.TellDamage(st, key)
	}
	return second, err
}
