// Package obs is object storage: the Store contract and its implementations (S3 and OBS, folder, memory). obs stands for Object Storage Service.
//
// Callers are internal/vault, which alone knows what the objects mean, and the programs, which
// open a store by its URL. The package starts no goroutine that outlives the call that started it.
// A crash leaves at most an object that was never confirmed and that nobody names (for the file
// store: a temporary file, removed by the next Open).
package obs

import (
	"context"
	"iter"
	"time"
)

// Info is what the store says about one object.
type Info struct {
	Key      string    // without the store's own prefix
	Size     int64     // bytes
	Modified time.Time // UTC, by the store's clock; only for display
	// RetainUntil is until when the object is locked, UTC. Stat sets
	// it where the server tells; zero is not known or not locked.
	RetainUntil time.Time
	// Class is the object's storage class as the server names it; "" where it names none.
	Class string
	// Cold is true when the object is in an archive class and was not restored: ReadAt is ErrCold.
	Cold bool
}

// Capabilities is what a store can do beyond the contract.
type Capabilities struct {
	// ConditionalPut is true when PutNew is atomic: of two writers of one name exactly
	// one wins. Of a server it is assumed until the first PutNew or ProveConditionalPut
	// proves it, and false from then on where the server does not do it.
	ConditionalPut bool
	// Integrity names what the server verified before Put returned: "crc64nvme
	// or sha256" (whichever it verifies), "sha256", "md5", "crc64nvme",
	// "crc32c", "fsync" (a file store, which reads nothing back) or "memory".
	Integrity string
	// Retain is how long the store locks the objects of which
	// retention is asked, from their put on; 0 without lock.
	Retain time.Duration
	// Proved is what the server was seen to do so far. Of stores
	// without a server nothing is in doubt, and it is zero.
	Proved Proved
}

// Store keeps objects under names that are written once. All methods may be called at
// the same time from any number of goroutines. Keys are UTF-8, 1 to 512 bytes, of
// slash-separated elements of [A-Za-z0-9._-], each at most 255 bytes and neither "." nor
// ".."; the first is neither ".tmp" nor ".holdfast-store". Anything else is ErrUsage. A
// key may not go on where another ends ("a" and "a/b"): file stores can't keep both.
type Store interface {
	// Put stores body under key and returns nil only after the store confirmed that these
	// very bytes are durable. It reads body and keeps no reference after it returns.
	// Writing the same bytes to the same name again is harmless; other bytes to a taken
	// name are a fault of the caller, and ErrExists where the store can tell. A failed Put
	// may have stored the object whole, never in part; then its error is ErrUncertain too.
	Put(ctx context.Context, key string, body []byte) error
	// PutNew is Put, but ErrExists when the name is taken, whatever it holds. Only where
	// Capabilities.ConditionalPut says so; elsewhere an error that wraps errors.ErrUnsupported.
	PutNew(ctx context.Context, key string, body []byte) error
	// ReadAt fills p from the object's bytes that begin at off, and returns how many it read.
	// As in io.ReaderAt, n < len(p) comes with an error: io.EOF when the object ends before.
	// The bytes are as the store sent them: the caller verifies.
	ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error)
	// Stat returns the object's size, or ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// List yields the objects whose key begins with prefix, in bytewise order of
	// their keys. Every object whose Put ended before List began is there. It ends
	// after the first error. A prefix with which no key can begin is ErrUsage.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes the objects; one that is not there is no error. After an error some
	// may be gone: after one that is ErrUncertain, or where there were several keys.
	Delete(ctx context.Context, keys ...string) error
	// Extend prolongs the lock of an object, at least to that time, in the mode that
	// the lock has. It never shortens a lock and may be repeated. An object without
	// a lock gets one that nobody can shorten. Only where Capabilities.Retain is
	// set; elsewhere an error that wraps errors.ErrUnsupported.
	Extend(ctx context.Context, key string, until time.Time) error
	// Capabilities is constant for the life of the Store, but for
	// what it learns of a server: see ConditionalPut and Proved.
	Capabilities() Capabilities
	// String is the store's URL without anything secret, for messages.
	String() string
	// Close frees connections. It is idempotent; calls under way may fail, and later ones do, with
	// os.ErrClosed.
	Close() error
}
