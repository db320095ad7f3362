package format

import (
	"errors"
	"fmt"
)

// Errors of reading stored bytes.
var (
	// ErrWrongKey says that a header opens with none of the caller's identities.
	ErrWrongKey = errors.New("the key does not open this vault")
	// ErrNewer says that a later version of the format made the bytes.
	ErrNewer = errors.New("made by a newer version of holdfast")
	// ErrCorrupt is the class of every *CorruptError, for errors.Is.
	ErrCorrupt = errors.New("damaged or forged")
)

// CorruptError names a stored object that differs from the original, and the evidence.
type CorruptError struct {
	Object string // its key in the store, with the vault's prefix
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("object %s: %s", e.Object, e.Reason) }

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// IsNewer tells whether err says that a later version made the bytes.
func IsNewer(err error) bool { return errors.Is(err, ErrNewer) }
