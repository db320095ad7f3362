package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/contain"
)

// writableFor is how long one look at whether the journal can be
// written is believed: a look costs a flush.
const writableFor = 10 * time.Second

// writeCheck finds out whether the journal can be written. It is safe for several goroutines.
type writeCheck struct {
	mu      sync.Mutex
	began   time.Time     // of the latest write
	ended   chan struct{} // closed when that write has ended; nil before the first
	outcome error         // of the latest write that has ended
}

// ErrFull says that the journal can't be written because the
// disk, or a quota, is full. Starting again does not heal that.
var ErrFull = errors.New("no space is left for the journal")

// Writable returns nil when the journal can be written, by a write that reaches
// the disk and is at most writableFor old. It returns at the latest when ctx
// ends: then a write has not come back. A full disk is ErrFull.
func (jr *Journal) Writable(ctx context.Context) error {
	c := &jr.write
	c.mu.Lock()
	under := c.ended != nil && !isClosed(c.ended)
	if !under && (c.ended == nil || time.Since(c.began) >= writableFor || c.outcome != nil) {
		ended := make(chan struct{})
		c.began, c.ended, under = time.Now(), ended, true
		go func() {
			err := contain.Call(jr.Tick)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.outcome = err
			close(ended)
		}()
	}
	ended, began := c.ended, c.began
	c.mu.Unlock()
	if under {
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("a write to the journal %s that began %s ago has not ended: %w", jr.path, time.Since(began).Round(time.Second), context.Cause(ctx))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.outcome == nil:
		return nil
	case errors.Is(c.outcome, unix.ENOSPC), errors.Is(c.outcome, unix.EDQUOT):
		return fmt.Errorf("write the journal %s: %w: %w", jr.path, ErrFull, c.outcome)
	}
	return fmt.Errorf("write the journal %s: %w", jr.path, c.outcome)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
