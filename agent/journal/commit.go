package journal

import (
	"errors"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"holdfast/internal/contain"
)

// commits writes to the journal for many at once: whoever comes while a transaction
// is being flushed waits, and goes into the next one with all others that came. A
// flush takes milliseconds and there is one at a time, so else a hundred small
// jobs, of a dozen transactions each, wait for little but each other's.
type commits struct {
	mu    sync.Mutex
	queue []*commit
	led   bool // somebody commits
}

// commit is the write of one caller.
type commit struct {
	write func(tx *bbolt.Tx) error
	done  chan error    // 1: how it ended
	lead  chan struct{} // 1: it is this caller's turn to commit, for all in the queue
}

var errCommitter = errors.New("journal: who committed for others did not come back")

// update has write done in a transaction, and returns when that is durable. When write or the
// flush fails, nothing of it is done, and its error is returned. It may be called several times,
// the last of which counts, and so must give no result but its last. It is for any goroutine.
func (jr *Journal) update(write func(tx *bbolt.Tx) error) error {
	if err := jr.allowed(); err != nil {
		return err
	}
	return jr.together(write)
}

// together is update whatever Guard says.
func (jr *Journal) together(write func(tx *bbolt.Tx) error) error {
	c := &commit{write: write, done: make(chan error, 1), lead: make(chan struct{}, 1)}
	s := &jr.commits
	s.mu.Lock()
	s.queue = append(s.queue, c)
	leads := !s.led
	s.led = true
	s.mu.Unlock()
	if !leads {
		select {
		case err := <-c.done:
			return err
		case <-c.lead:
		}
	}
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	defer func() { // also when a write does not return
		for _, other := range batch {
			select {
			case other.done <- errCommitter:
			default: // it was told
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.led = len(s.queue) > 0; s.led {
			s.queue[0].lead <- struct{}{}
		}
	}()
	jr.commit(batch)
	return <-c.done
}

// commit writes as much of the batch as it can in one
// transaction; a write that fails by itself fails alone.
func (jr *Journal) commit(batch []*commit) {
	batch = slices.Clone(batch)
	for len(batch) > 0 {
		failed := -1
		err := jr.transact(func(tx *bbolt.Tx) error {
			for i, c := range batch {
				// A panic of one write must not take the other writes of the transaction.
				if err := contain.Call(func() error { return c.write(tx) }); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
		if failed < 0 || len(batch) == 1 {
			for _, c := range batch {
				c.done <- err
			}
			return
		}
		alone := batch[failed]
		batch = slices.Delete(batch, failed, failed+1)
		alone.done <- contain.Call(func() error { return jr.transact(alone.write) })
	}
}

// Guard has allowed asked before each write that a command, a report or a step of a job makes. With
// its error nothing is written, and so nothing that the write would have named is done. The
// journal's own looks whether it can be written are not asked for. It may be set at any time.
func (jr *Journal) Guard(allowed func() error) { jr.guard.Store(&allowed) }

func (jr *Journal) allowed() error {
	if guard := jr.guard.Load(); guard != nil {
		return (*guard)()
	}
	return nil
}

// Tick writes the reading of the clock, and tells whether the journal can be written.
func (jr *Journal) Tick() error {
	jr.ticks.Add(1)
	defer jr.ticks.Add(-1)
	return jr.together(func(*bbolt.Tx) error { return nil })
}

// transact runs write in one transaction, adds the reading of the
// clock, and reports the journal's own part in the transaction.
func (jr *Journal) transact(write func(tx *bbolt.Tx) error) error {
	refused := false // by write, which says nothing of the journal
	err := jr.db.Update(func(tx *bbolt.Tx) error {
		if err := write(tx); err != nil {
			refused = true
			return err
		}
		return put(tx, bucketMeta, keyClock, jr.clock.now())
	})
	if told := jr.told.Load(); told != nil && !refused {
		(*told)(err)
	}
	return err
}
