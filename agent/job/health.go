package job

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

// Full tells whether a command of one instance would be refused
// because as many jobs wait as the configuration allows.
func (m *Manager) Full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opts.Queue > 0 && len(m.waiting)+m.slots.waiting()-m.slots.idle() >= m.opts.Queue
}

// HoldTurns tells how many jobs wait for their turn to hold an instance, and how many
// turns were given so far: while jobs wait and that number stays, no job comes on.
func (m *Manager) HoldTurns() (waiting int, granted uint64) {
	m.holds.mu.Lock()
	defer m.holds.mu.Unlock()
	return len(m.holds.line), m.holds.granted
}
