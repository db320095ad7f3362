package job

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/crashpoint"
)

// A leftover is a snapshot that nothing needs any more, or a tree that a restore has replaced
// or left beside a volume. Leftovers that could not be removed are in the journal: no job waits
// for their removal. The Manager tries again for as long as it takes, and tells the operator.

// Bounds of the work on leftovers, each with its reason.
const (
	// removeTimeout bounds a removal at the end of a job: who waits
	// for that end must not wait for a disk.
	removeTimeout = 30 * time.Second
	// firstLeftoverPause and lastLeftoverPause are between tries to remove one: what stands
	// in the way is mostly there until a person acts, and a look costs a run of lvm.
	firstLeftoverPause = time.Minute
	lastLeftoverPause  = time.Hour
)

// Leftovers lists the things that could not be removed yet, the oldest first.
func (m *Manager) Leftovers() ([]model.Leftover, error) { return m.journal.Leftovers() }

// leave makes a leftover of a thing that a job could not remove, and tells the observer.
func (w *worker) leave(j *model.Job, l model.Leftover, err error) model.Leftover {
	l.Instance, l.Job, l.Since, l.Error = j.Instance, j.ID, w.m.opts.Now().UTC(), err.Error()
	w.m.parts.Observer.Lacked(j.Instance, j.ID, "remove "+l.Path(), err)
	return l
}

// dropSnapshots removes the job's snapshots, except snapshots that
// become bases. It returns the snapshots that can't be removed.
func (w *worker) dropSnapshots(ctx context.Context, j *model.Job, kept []model.Base) (left []model.Leftover) {
	for _, s := range j.Snapshots {
		if readInPlace(j, s) || slices.ContainsFunc(kept, func(b model.Base) bool { return b.Ref.Path == s.Ref.Path }) {
			continue
		}
		ctx, cancel := acting(ctx, removeTimeout)
		err := w.act(crashpoint.RemoveSnapshot, func() error {
			return contain.Call(func() error { return w.m.parts.RemoveLeftover(ctx, s.Ref) })
		})
		cancel()
		if err != nil {
			left = append(left, w.leave(j, model.Leftover{Ref: s.Ref}, err))
		}
	}
	return left
}

// removeLeftover tries to remove one leftover and writes the outcome.
func (m *Manager) removeLeftover(ctx context.Context, l model.Leftover) (removed bool) {
	try, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	var err error
	if l.Place != nil {
		err = m.discardTree(*l.Place)
	} else {
		err = m.parts.RemoveLeftover(try, l.Ref)
	}
	if ctx.Err() != nil && err != nil {
		return false // the agent stops: that is no news of the leftover
	}
	doing := "remove leftover " + l.Path()
	if errors.Is(err, errTakenOut) { // seekKept adopts only a tree that no record names
		m.parts.Observer.Trouble(l.Instance, l.Job, doing, err)
		err = nil
	}
	if err != nil {
		m.parts.Observer.Trouble(l.Instance, l.Job, doing, err)
		l.Error = err.Error()
		err = m.journal.NoteLeftover(l)
	} else {
		removed, err = true, m.journal.ForgetLeftover(l)
	}
	if err != nil {
		m.parts.Observer.Trouble(l.Instance, l.Job, doing+": write the journal", err)
	}
	return removed
}

// watchLeftovers tries to remove leftovers from time to time until
// ctx ends: each soon at first, and then ever more rarely.
func (m *Manager) watchLeftovers(ctx context.Context) {
	type due struct {
		at    time.Time
		pause time.Duration
	}
	next := map[string]due{}
	tick := time.NewTicker(firstLeftoverPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		left, err := m.journal.Leftovers()
		if err != nil {
			m.parts.Observer.Trouble("", "", "look for leftovers", err)
			continue
		}
		for _, l := range left {
			key := l.Key()
			d := next[key]
			if now := time.Now(); now.Before(d.at) || ctx.Err() != nil {
				continue
			}
			delete(next, key)
			if !m.removeLeftover(ctx, l) {
				d.pause = min(max(2*d.pause, firstLeftoverPause), lastLeftoverPause)
				d.at = time.Now().Add(d.pause)
				next[key] = d
			}
		}
	}
}
