package job

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// slots lets a number of jobs work at once. A place in the line is taken at
// once by join, so the order does not depend on which goroutine wakes up first.
//
// The order: restores before backups, since somebody waits for the instance; among each, jobs with
// a deadline before jobs without, the earliest deadline first and of one deadline the smallest
// instance, so that some are free early. Among the others the commands take turns, and of a command
// the jobs come in its order: a command of one instance does not wait for a hundred of another.
//
// A quarter of the slots is not for large instances, which keep their slots
// for long: however many large instances there are, small ones make progress.
type slots struct {
	mu        sync.Mutex
	all       int // slots
	free      int
	large     int // of those, that large instances may have
	lent      int // slots of jobs that are stuck, see lend
	lentLarge int // of those, slots of large instances
	line      []*ticket
	commands  map[string]*command // that have a ticket
	turn      uint64              // of the command that was served last
	granted   uint64              // how many slots were given so far
}

// command counts the turns of one. A new one begins with the turn
// that is on, and not with all those it has missed (start-time fair
// queueing, Goyal, Vin and Cheng 1996, with jobs of one length).
type command struct {
	tickets int
	turn    uint64
}

// place holds everything on which the order in the line depends.
type place struct {
	restore  bool
	command  string    // id of the task
	deadline time.Time // zero: none
	bytes    uint64    // of the instance; unknownSize
	seq      uint64    // order of acceptance
}

// largeInstance is the size from which an instance counts as large,
// bytes: it takes half a minute to read.
const largeInstance = 8 << 30

// large tells whether the job is a backup of a large instance. One whose size is not
// known, before its first backup, is not; nor is a restore, for which somebody waits.
func (p *place) large() bool { return !p.restore && p.bytes >= largeInstance && p.bytes != unknownSize }

// unknownSize comes after all that are known.
const unknownSize = math.MaxUint64

// ticket is one place in the line. It is for one goroutine.
type ticket struct {
	s     *slots
	place place
	ready chan struct{} // closed when the slot is the ticket's
	gone  bool          // released, or left the line
	lent  bool          // see lend
}

func newSlots(n int) *slots {
	n = max(1, n)
	return &slots{all: n, free: n, large: mayBeLarge(n), commands: map[string]*command{}}
}

func (s *slots) join(p place) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.ticket(p)
	s.line = append(s.line, t)
	s.serve()
	return t
}

func (s *slots) ticket(p place) *ticket {
	c := s.commands[p.command]
	if c == nil {
		c = &command{turn: s.turn}
		s.commands[p.command] = c
	}
	c.tickets++
	return &ticket{s: s, place: p, ready: make(chan struct{})}
}

// take gives a slot at once, beyond the number if need be: to
// a job that already does the thing for which the slot stands.
func (s *slots) take(p place) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.ticket(p)
	s.give(t)
	return t
}

func (s *slots) give(t *ticket) {
	s.free--
	s.granted++
	if t.place.large() {
		s.large--
	}
	c := s.commands[t.place.command]
	s.turn = c.turn
	c.turn++
	close(t.ready)
}

// mayBeLarge is how many of n slots large instances may have.
func mayBeLarge(n int) int { return n - n/4 }

// room tells whether there is a slot for the ticket: a free slot, or a slot beyond
// the number where all slots that it could have are lent. The lock is held.
func (s *slots) room(t *ticket) bool {
	if s.free <= 0 && s.all-s.free > s.lent {
		return false
	}
	return !t.place.large() || s.large > 0 || mayBeLarge(s.all)-s.large <= s.lentLarge
}

// serve gives slots to those who are next. The lock is held.
func (s *slots) serve() {
	for {
		var next *ticket
		for _, t := range s.line {
			if s.room(t) && (next == nil || s.compare(t, next) < 0) {
				next = t
			}
		}
		if next == nil {
			return
		}
		s.line = slices.DeleteFunc(s.line, func(t *ticket) bool { return t == next })
		s.give(next)
	}
}

// compare is negative when a is before b. The lock is held.
func (s *slots) compare(a, b *ticket) int {
	p, q := a.place, b.place
	switch {
	case p.restore != q.restore:
		if p.restore {
			return -1
		}
		return 1
	case p.deadline.IsZero() != q.deadline.IsZero():
		if q.deadline.IsZero() {
			return -1
		}
		return 1
	case !p.deadline.IsZero():
		return cmp.Or(p.deadline.Compare(q.deadline), cmp.Compare(p.bytes, q.bytes), cmp.Compare(p.seq, q.seq))
	}
	return cmp.Or(cmp.Compare(s.commands[p.command].turn, s.commands[q.command].turn), cmp.Compare(p.seq, q.seq))
}

// waiting counts the places in the line.
func (s *slots) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.line)
}

// ahead counts the places in the line that are before the ticket's
// as things stand; 0 when it is not in the line.
func (s *slots) ahead(t *ticket) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.line, t) {
		return 0
	}
	for _, other := range s.line {
		if other != t && s.compare(other, t) < 0 {
			n++
		}
	}
	return n
}

// idle counts the slots that nobody has.
func (s *slots) idle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.free)
}

// wait returns nil when the slot is there, or the context's cause.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the slot back, or leaves the line. It is idempotent, and nothing for a nil ticket.
func (t *ticket) leave() {
	if t == nil {
		return
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.gone {
		return
	}
	t.gone = true
	c := t.s.commands[t.place.command]
	if c.tickets--; c.tickets == 0 {
		delete(t.s.commands, t.place.command)
	}
	if i := slices.Index(t.s.line, t); i >= 0 {
		t.s.line = slices.Delete(t.s.line, i, i+1)
		return
	}
	t.s.setLent(t, false)
	t.s.free++
	if t.place.large() {
		t.s.large++
	}
	t.s.serve()
}

// lend says that the job that has the slot is stuck, and does nothing with
// it. A lent slot still counts, as its instance still stands still, but never
// so that no other job could have one: where all slots are lent, one job more
// gets one. It is nothing for a nil ticket, and for one without a slot.
func (t *ticket) lend() { t.setLent(true) }

// reclaim says that the job goes on.
func (t *ticket) reclaim() { t.setLent(false) }

func (t *ticket) setLent(lent bool) {
	if t == nil {
		return
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.gone || slices.Contains(t.s.line, t) {
		return
	}
	t.s.setLent(t, lent)
	t.s.serve()
}

// setLent counts a slot as lent or not. The lock is held.
func (s *slots) setLent(t *ticket, lent bool) {
	n := 1
	switch {
	case t.lent == lent:
		return
	case !lent:
		n = -1
	}
	t.lent = lent
	s.lent += n
	if t.place.large() {
		s.lentLarge += n
	}
}
