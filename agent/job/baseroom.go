package job

import (
	"context"
	"fmt"
	"time"

	"holdfast/agent/model"
)

// The watch over the space that bases take. A base costs what its instance overwrites, as
// fast as that writes: a file system with a third free is full within seconds. So the space
// is looked at all the time that a base stands, and a base goes while there is still some.

// Bounds of the watch, each with its reason.
const (
	// roomEvery is how often the space is looked at while it does not
	// shrink: the look is one call of the kernel.
	roomEvery = time.Second
	// roomSoon is how often while it shrinks towards the limit, or a base was just removed.
	roomSoon = 250 * time.Millisecond
	// roomAhead is how long the space has to last at the rate at which it shrinks: some
	// file systems give the space of a snapshot back only some seconds after its removal.
	roomAhead = 10 * time.Second
	// roomShare keeps an expensive look (a run of lvm) from taking most of the agent's time.
	roomShare = 20
)

// roomSeen is the result of a look.
type roomSeen struct {
	free int64
	at   time.Time
}

// watchBases looks at the bases until ctx ends: at their space all
// the time, at the other rules from time to time.
func (m *Manager) watchBases(ctx context.Context) {
	rules, seen := time.Now(), map[string]roomSeen{}
	pause := basesEvery
	for {
		if m.opts.Bases.Keep && m.opts.Bases.MinFree > 0 && m.parts.Room != nil {
			pause = m.watchRoom(ctx, seen)
		}
		if sleep(ctx, pause) != nil {
			return
		}
		if time.Since(rules) >= basesEvery {
			m.dropBases(ctx)
			rules = time.Now()
		}
	}
}

// watchRoom looks at the space of each base once, removes the
// oldest one where that is short, and tells when to look again.
func (m *Manager) watchRoom(ctx context.Context, seen map[string]roomSeen) (pause time.Duration) {
	bases, err := m.journal.Bases("")
	if err != nil {
		return roomEvery // the journal's own troubles are told of elsewhere
	}
	pause = roomEvery
	// file systems, by their size: one base at a time, as its space comes back a little later
	dropped := map[int64]bool{}
	for _, b := range bases {
		began := time.Now()
		free, total, err := m.parts.Room(ctx, b)
		now := time.Now()
		pause = max(pause, roomShare*now.Sub(began))
		if err != nil || ctx.Err() != nil {
			delete(seen, b.Ref.Path)
			continue // a base that can't be looked at falls to the other rules
		}
		before, known := seen[b.Ref.Path]
		seen[b.Ref.Path] = roomSeen{free, now}
		lasts := time.Duration(-1)
		if gone := before.free - free; known && gone > 0 {
			lasts = time.Duration(float64(free) / float64(gone) * float64(now.Sub(before.at)))
		}
		short := float64(free) < m.opts.Bases.MinFree*float64(total) || lasts >= 0 && lasts < roomAhead && free < total/2
		if lasts >= 0 && lasts < 4*roomAhead {
			pause = max(roomSoon, roomShare*now.Sub(began))
		}
		if !short || dropped[total] {
			continue
		}
		if m.dropShort(ctx, b, free, total, lasts) {
			dropped[total] = true
			delete(seen, b.Ref.Path)
			pause = roomSoon
		}
	}
	return pause
}

// dropShort removes a base for lack of space and says so; false
// where it can't go, since a job uses it.
func (m *Manager) dropShort(ctx context.Context, b model.Base, free, total int64, lasts time.Duration) bool {
	forgotten, err := m.journal.ForgetBase(b)
	if err != nil || !forgotten {
		return false
	}
	why := fmt.Errorf("%d of %d bytes are free where it lies, the limit is %.0f %%", free, total, 100*m.opts.Bases.MinFree)
	if lasts >= 0 {
		why = fmt.Errorf("%w; at the rate at which it shrinks, that lasts for %s", why, lasts.Round(time.Second))
	}
	m.parts.Observer.Lacked(b.Instance, "", fmt.Sprintf("keep the base snapshot of volume %q", b.Volume), why)
	m.removeLeftover(ctx, model.Leftover{Instance: b.Instance, Ref: b.Ref, Since: m.opts.Now().UTC()})
	return true
}
