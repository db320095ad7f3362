package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// freshLook is for how long a look before a power-down counts for the next one: a command
// for a hundred instances powers them down within seconds of each other.
const freshLook = 10 * time.Second

// lastLooks remembers the looks before power-downs. The
// zero value is ready. It is for any goroutine.
type lastLooks struct {
	mu       sync.Mutex
	vaults   map[string]*lastLook // by the vault's id
	silences map[string]time.Time // by tenant, when Alone last found the store silent
}

// lastLook is the last whole look at one vault. While one job holds the
// turn and looks, the other jobs of the vault wait for the turn or for their context.
type lastLook struct {
	turn chan struct{} // 1 token
	// at is the time at which the second list of the last whole look began; guarded by turn.
	at time.Time
}

// entry gives the entry of the vault.
func (b *lastLooks) entry(id string) *lastLook {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.vaults[id]
	if last == nil {
		last = &lastLook{turn: make(chan struct{}, 1)}
		last.turn <- struct{}{}
		if b.vaults == nil {
			b.vaults = map[string]*lastLook{}
		}
		b.vaults[id] = last
	}
	return last
}

// quiet notes that the store was silent when it was asked for the vault of the tenant.
func (b *lastLooks) quiet(tenant string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.silences == nil {
		b.silences = map[string]time.Time{}
	}
	b.silences[tenant] = time.Now()
}

// silent tells whether the store was silent only just, so that Alone has no use for another look.
// Present never asks this: a power-down without a recent verification needs an answer of the store.
func (b *lastLooks) silent(tenant string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return counts(b.silences[tenant], time.Now())
}

// counts tells whether a finding of that time counts now.
func counts(at, now time.Time) bool {
	return recent(now.Sub(at), now.Round(0).Sub(at.Round(0)))
}

// recent compares the ages by both clocks with freshLook. The clock of the process stands still
// while the machine is suspended or lies in an image, and the wall clock can be set back.
func recent(process, wall time.Duration) bool {
	within := func(age time.Duration) bool { return age >= 0 && age < freshLook }
	return within(process) && within(wall)
}

// isSilence tells whether the error says that the store gave no answer.
func isSilence(err error) bool {
	return NoAnswer(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, obs.ErrUnavailable)
}

// fresh looks whether a copy has used the vault, right before a power-down. The look is put, and
// then the looks are listed again: of two copies that power down at the same time, one at least
// finds the look of the other one. Only a look of which the list, the put and the second list all
// succeeded counts for the next power-downs. It counts also for a job that asked before the second
// list began, however long that list took.
func (l *Looks) fresh(ctx context.Context, v *vault.Vault) error {
	asked, last := time.Now(), l.before.entry(v.Info().ID)
	select {
	case <-last.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { last.turn <- struct{}{} }()
	if last.at.After(asked) || counts(last.at, time.Now()) {
		return l.standing.Allowed()
	}
	if err := l.leave(ctx, v); err != nil {
		return err
	}
	again := time.Now()
	if _, err := l.see(ctx, v); err != nil {
		return err
	}
	last.at = again
	return nil
}
