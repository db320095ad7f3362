package pressure

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Limits are the shares of time, 0 to 1, above which our work is slowed down; 0 is no limit.
type Limits struct {
	CPU, IO, Memory float64
}

const (
	// every is how often the brake looks: often enough to be off
	// soon, rarely enough for a share to mean something.
	every = 500 * time.Millisecond
	// least is the slowest: one part in twenty of the time.
	least = 0.05
	// slower and faster change the pace at each look. It halves at once
	// when something waits, and is back at full pace within three seconds.
	slower = 0.5
	faster = 2.0
	// longest is how long one rest takes at most, so that a pace that got faster is followed.
	longest = time.Second
)

// Brake slows work down while the host is pressed. Its methods may be called from
// any goroutine. The zero value, and a nil *Brake, never slow anything down.
type Brake struct {
	mu     sync.Mutex
	limits Limits
	pace   float64 // share of the time in which work is done; 0: all of it
	why    string
}

// NewBrake returns a Brake with those limits. It does nothing before Run.
func NewBrake(limits Limits) *Brake { return &Brake{limits: limits} }

// Run looks at the source until ctx ends. Each look that changed the pace is told to observe, with
// the pace and why; nil is allowed. A source that can't be read lets the brake go: work goes on.
func (b *Brake) Run(ctx context.Context, s Source, observe func(pace float64, why string)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		sample, err := s.Sample()
		pace, why, changed := b.look(sample, err)
		if changed && observe != nil {
			observe(pace, why)
		}
		select {
		case <-ctx.Done():
			b.look(Sample{}, context.Cause(ctx))
			return
		case <-tick.C:
		}
	}
}

func (b *Brake) look(s Sample, err error) (pace float64, why string, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, beforeWhy := b.current(), b.why
	var over []string
	for _, r := range []struct {
		name       string
		got, limit float64
	}{{"cpu", s.CPU, b.limits.CPU}, {"io", s.IO, b.limits.IO}, {"memory", s.Memory, b.limits.Memory}} {
		if err == nil && r.limit > 0 && r.got > r.limit {
			over = append(over, fmt.Sprintf("%s %.0f%% of the time", r.name, 100*r.got))
		}
	}
	switch {
	case err != nil:
		b.pace = 1
	case len(over) > 0:
		b.pace = max(least, before*slower)
	default:
		b.pace = min(1, before*faster)
	}
	b.why = ""
	if len(over) > 0 {
		b.why = "tasks of the host wait for " + strings.Join(over, ", ")
	}
	return b.pace, b.why, b.pace != before || (b.why == "") != (beforeWhy == "")
}

func (b *Brake) current() float64 {
	if b.pace == 0 {
		return 1
	}
	return b.pace
}

// State returns the share of the time in which work is done, and why it is less than 1.
func (b *Brake) State() (pace float64, why string) {
	if b == nil {
		return 1, ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current(), b.why
}

// Rest returns after the pause that is due after that much work, or when ctx ends, with its cause.
func (b *Brake) Rest(ctx context.Context, worked time.Duration) error {
	pace, _ := b.State()
	if pace >= 1 || worked <= 0 {
		return nil
	}
	pause := time.Duration(float64(worked) * (1/pace - 1))
	t := time.NewTimer(min(pause, longest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
