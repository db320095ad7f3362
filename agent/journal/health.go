package journal

import (
	"time"

	"go.etcd.io/bbolt"
)

// WatchWrites has told called after each transaction that writes to the journal, from
// any goroutine: with nil once it is durable, with an error when the journal itself
// could not be written. told must not block. It is for once, before the journal is used.
func (jr *Journal) WatchWrites(told func(error)) { jr.told.Store(&told) }

// Looks tells whether a write is under way that Writable makes: a transaction that told is
// called for meanwhile may be that one, which needs no room.
func (jr *Journal) Looks() bool { return jr.ticks.Load() > 0 }

// keyProbe is what Probe writes in bucketMeta.
var keyProbe = []byte("probe")

// Probe writes to the journal, to find out whether
// that is possible while no job has anything to write.
func (jr *Journal) Probe(now time.Time) error {
	return jr.together(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyProbe, []byte(now.UTC().Format(time.RFC3339)))
	})
}
