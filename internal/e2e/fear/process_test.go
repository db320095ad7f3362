package fear_test

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// process is one command under way, and the plan by which it is disturbed. Its methods may be
// called from any goroutine.
type process struct {
	s       *stage
	host    *host
	wild    bool // it is paused, and may be killed
	began   time.Time
	cmd     *exec.Cmd
	started atomic.Bool
	ended   chan struct{} // closed when it has ended

	mu sync.Mutex
	r  *rand.Rand // nil: nothing disturbs the process
	// session is when the store last confirmed a session of the process.
	session time.Time
}

// chance is true with that probability. It is false for a process that nothing disturbs.
func (p *process) chance(probability float64) bool {
	if p.r == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.r.Float64() < probability
}

// between draws a duration.
func (p *process) between(least, most time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return least + time.Duration(p.r.Int64N(int64(most-least)+1))
}

// aWhile draws the length of a pause. Most are short. The long pauses leave time for a whole prune.
func (p *process) aWhile() time.Duration {
	p.mu.Lock()
	kind := p.r.IntN(10)
	p.mu.Unlock()
	switch {
	case kind < 6:
		return p.between(10*time.Millisecond, 250*time.Millisecond)
	case kind < 9:
		return p.between(250*time.Millisecond, 1500*time.Millisecond)
	}
	return p.between(1500*time.Millisecond, 6*time.Second)
}

// pause stops the process for d, or until it has ended.
func (p *process) pause(d time.Duration) {
	if !p.started.Load() || p.cmd.Process.Signal(unix.SIGSTOP) != nil {
		return // it has ended
	}
	p.s.trail.count("pauses")
	p.sleep(d)
	_ = p.cmd.Process.Signal(unix.SIGCONT)
}

// longestSleep bounds a sleep of a process that others are to overtake.
const longestSleep = 20 * time.Second

// oversleep stops the process while somebody declares its host dead, a whole prune passes or none,
// and backups are made after it.
func (p *process) oversleep() {
	prune := p.chance(0.5)
	if !p.started.Load() || p.cmd.Process.Signal(unix.SIGSTOP) != nil {
		return
	}
	p.s.trail.count("sleeps")
	select {
	case p.s.asleep <- p.host:
	default: // the operator has enough to do
	}
	begun := time.Now()
	made := p.s.trail.counted("backups made")
	for end := begun.Add(longestSleep); time.Now().Before(end) && p.s.going.Err() == nil; {
		if !p.sleep(20 * time.Millisecond) {
			return
		}
		now := p.s.trail.counted("backups made")
		if prune && !p.s.prunedSince(begun) {
			made = now
		} else if now > made+1 {
			p.s.trail.count("sleepers overtaken")
			break
		}
	}
	_ = p.cmd.Process.Signal(unix.SIGCONT)
}

func (p *process) kill() {
	if p.started.Load() && p.cmd.Process.Kill() == nil {
		p.s.trail.count("kills")
	}
}

// sleep waits for d, or until the process has ended.
func (p *process) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ended:
		return false
	}
}

// lateness is how long a process may go on when the time of the stage is over.
const lateness = 2 * time.Second

// disturb lets the process run for a few milliseconds at a time, and pauses it between, until the
// process has ended. It ends a process that takes too long.
func (p *process) disturb(ctx context.Context) {
	if p.r == nil {
		if !p.sleep(patience) {
			return
		}
		p.s.found("%q has not ended after %s, although nothing disturbs it", p.cmd.Args, patience)
		p.kill()
		return
	}
	for range 8 {
		if !p.wild || !p.sleep(p.slice()) || ctx.Err() != nil {
			break
		}
		switch {
		case p.chance(0.03):
			p.kill()
			return
		case p.chance(p.pausing()):
			p.pause(p.aWhile())
		}
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		if p.sleep(lateness) {
			p.kill()
		}
	}
}

// slice draws how long the process runs until the next pause. A process takes some tens of
// milliseconds of processor time, and most of them share the processors with others.
func (p *process) slice() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.r.ExpFloat64() * float64(25*time.Millisecond))
}

// pausing is how probable a pause after a slice is. At MinIO, the gate pauses the process at its
// requests.
func (p *process) pausing() float64 {
	if p.s.minio != nil {
		return 0.1
	}
	return 0.7
}
