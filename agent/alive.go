package agent

import (
	"context"
	"errors"
	"time"

	"holdfast/agent/journal"
)

// readyTime bounds the look at the journal for an answer on readiness.
const readyTime = 5 * time.Second

// Alive returns nil when the agent's loops advance: the journal answers
// and can be written, and no lock is stuck. It feeds a watchdog, so a
// fault that a new start can't heal, such as a full disk, is no reason.
func (a *Agent) Alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if _, err := a.journal.PendingReports(); err != nil {
		return err
	}
	if err := a.stuck(); err != nil {
		return err
	}
	if err := a.journal.Writable(ctx); err != nil && !errors.Is(err, journal.ErrFull) {
		return err
	}
	a.manager.Counts()
	return context.Cause(ctx)
}

// healthy is Alive for a caller that waits no longer than a moment.
func (a *Agent) healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTime)
	defer cancel()
	return a.Alive(ctx)
}

var errNotReady = errors.New("the agent recovers or shuts down")

// takesCommands is what readiness means.
func (a *Agent) takesCommands() error {
	if err := a.standing.allowed(); err != nil {
		return err
	}
	if !a.serving.Load() || a.manager.Draining() {
		return errNotReady
	}
	if err := a.listeners.control.fault(); err != nil {
		return err
	}
	return a.journalTrouble() // without the journal no command can be accepted, and no job advances
}
