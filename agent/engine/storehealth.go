package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/obs"
)

// StoreHealth tells whether the store answers, for the jobs that hold instances. It is the
// job.Store. It is for any number of goroutines.
type StoreHealth struct {
	vaults *Vaults // see Begin
	// probe is the store without the limiter: a request must not wait behind the uploads of other
	// jobs, whose packs may take minutes each.
	probe obs.Store

	mu sync.Mutex
	// A store may take no writes and answer reads, so each kind of request is looked at by itself.
	reads, writes silence
}

// Begin gives the vaults, and the store without the limiter. It comes before Reach.
func (h *StoreHealth) Begin(v *Vaults, probe obs.Store) { h.vaults, h.probe = v, probe }

// silence is since when the store has not answered one kind of request. The zero value is of one
// that answers.
type silence struct {
	answered time.Time // the last time
	since    time.Time // when the first of the requests began that failed since; zero: none did
}

// Reach opens the tenant's vault, unless it is open, and asks for an object that is not there.
func (h *StoreHealth) Reach(ctx context.Context, tenant string) error {
	if _, err := h.vaults.forBackup(ctx, tenant); err != nil {
		return notAnswered(fmt.Errorf("open vault: %w", err))
	}
	if _, err := h.probe.Stat(ctx, "probe"); err != nil && !errors.Is(err, obs.ErrNotFound) {
		return notAnswered(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// What failed before is no reason to let an instance go that is held from now on.
	h.reads, h.writes = silence{answered: time.Now()}, silence{answered: time.Now()}
	return nil
}

// notAnswered marks the errors that may be over without anybody's doing.
func notAnswered(err error) error {
	if isAway(err) {
		return fmt.Errorf("%w: %w", job.ErrStoreAway, err)
	}
	return err
}

// isAway tells whether an error says that no answer of the store came. An
// answer of the name service, or of a proxy in between, is no such answer.
func isAway(err error) bool {
	return errors.Is(err, obs.ErrUnavailable) || errors.Is(err, obs.ErrNoHost) || errors.Is(err, obs.ErrOdd) || errors.Is(err, obs.ErrProxy)
}

// Silent is for how long the store has answered no read, or no write.
func (h *StoreHealth) Silent() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.reads.length(), h.writes.length())
}

func (s *silence) length() time.Duration {
	if s.since.IsZero() {
		return 0
	}
	return time.Since(s.since)
}

// Request is told of each try of each request.
func (h *StoreHealth) Request(e obs.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.writes
	switch e.Op {
	case "read", "stat", "list":
		s = &h.reads
	}
	switch now := time.Now(); {
	case e.Err == nil, errors.Is(e.Err, obs.ErrNotFound), errors.Is(e.Err, obs.ErrExists):
		*s = silence{answered: now}
	case isAway(e.Err) && s.since.IsZero():
		if s.since = now.Add(-e.Duration); s.since.Before(s.answered) {
			s.since = s.answered
		}
	}
}
