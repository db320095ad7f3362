package journal

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// The journal has a clock of its own, which counts how long the host has been up
// since the journal began. Within one boot the clock follows CLOCK_BOOTTIME, which
// no setting of the wall clock moves. Over a reboot the clock stands still from the
// last transaction of the old boot to the begin of the new boot, because nothing on
// the host measures that time. Every duration that something is decided by comes
// from this clock; the wall clock only tells people when something happened.

var keyClock = []byte("clock") // in bucketMeta -> clockRecord

// clockRecord is the reading of the clock with which a transaction was written.
type clockRecord struct {
	Boot  string        `json:"boot"`  // id of the boot
	Since time.Duration `json:"since"` // since that boot began, ns
	Up    time.Duration `json:"up"`    // by the journal's clock, ns
}

// uptime is the journal's clock. It is safe for several goroutines.
type uptime struct {
	mu     sync.Mutex
	last   clockRecord          // that the journal held when it was opened
	boot   string               // id of the present boot
	since  func() time.Duration // since the present boot began
	offset time.Duration        // what since lacks to the journal's clock
	read   time.Duration        // the latest reading, which the clock never falls behind
}

// processClock is the clock of a journal that nobody has given the host's clock.
func processClock() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

// set begins to count by the clock of a boot.
func (u *uptime) set(boot string, since func() time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.boot, u.since = boot, since
	now := since()
	u.offset = u.last.Up
	if u.last.Boot == boot && boot != "" && u.last.Since <= now {
		u.offset = u.last.Up - u.last.Since
	}
	u.read = u.last.Up
}

func (u *uptime) now() clockRecord {
	u.mu.Lock()
	defer u.mu.Unlock()
	since := u.since()
	u.read = max(u.read, since+u.offset)
	return clockRecord{Boot: u.boot, Since: since, Up: u.read}
}

// SetClock begins to count by the clock of a boot of the host. since is how long the boot with that
// id has lasted (CLOCK_BOOTTIME); nil counts from now on. It is for once, before a job is accepted.
func (jr *Journal) SetClock(boot string, since func() time.Duration) {
	if since == nil {
		since = processClock()
	}
	jr.clock.set(boot, since)
}

// Up is the reading of the journal's clock: how long the host has been up
// since the journal began, as far as the journal knows. It goes on when the
// agent starts again, never falls, and does not depend on the wall clock.
func (jr *Journal) Up() time.Duration { return jr.clock.now().Up }

// readClock takes the reading of the last transaction.
func (jr *Journal) readClock(tx *bbolt.Tx) error {
	b := tx.Bucket(bucketMeta).Get(keyClock)
	if b == nil {
		return nil
	}
	if err := json.Unmarshal(b, &jr.clock.last); err != nil {
		return fmt.Errorf("journal %s: it %w: decode its clock: %w", jr.path, errDamaged, err)
	}
	return nil
}
