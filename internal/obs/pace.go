package obs

import (
	"context"
	"sync"
	"time"
)

const (
	// paceBurst is how much an idle pacer lets through at once, as the time in
	// which it would be earned. It is 1.5 % of the ten seconds over which a limit
	// is held; with less, pauses between requests would not be made up for.
	paceBurst = 150 * time.Millisecond
	// paceChunk is how many bytes are asked for at a time, at most: a connection
	// that waits for more than it soon gets looks dead to the server.
	paceChunk = 64 << 10
	// paceShare is the part of a second's rate that a chunk is at most.
	paceShare = 50
)

// pacer lets through so many units a second, in the order in which they were asked
// for. It is safe for any number of goroutines. The zero value has no limit.
type pacer struct {
	mu      sync.Mutex
	rate    float64       // units a second; 0 is no limit
	next    time.Time     // when the next unit is due
	changed chan struct{} // closed when the rate changes; nil while nobody waits
}

// set changes the rate, also for calls that wait.
func (p *pacer) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate == p.rate {
		return
	}
	p.rate, p.next = rate, time.Now()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// chunk is how many of n bytes to ask for at a time.
func (p *pacer) chunk(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return n
	}
	return min(n, paceChunk, max(1, int(p.rate/paceShare)))
}

// ahead is how many bytes a connection may receive ahead of its reader; 0 is any number.
func (p *pacer) ahead() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return 0
	}
	return min(max(int(p.rate/bufferShare), minBuffer), maxBuffer)
}

// take waits until n units are due. It returns early, with the context's error, when ctx ends.
func (p *pacer) take(ctx context.Context, n int) error {
	for {
		wait, changed := p.reserve(n)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			return nil
		case <-changed: // the reservation is forgotten: reserve again
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// reserve takes n units and tells when the last of them is due.
func (p *pacer) reserve(n int) (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 {
		return 0, nil
	}
	now := time.Now()
	if earliest := now.Add(-paceBurst); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.next.Sub(now), p.changed
}
