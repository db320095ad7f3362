package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// fault is a kind of thing that happens to a host, or to a phone.
type fault struct {
	name   string
	weight int
	lasts  [2]time.Duration // from, to
	// do makes it happen. It returns what undoes it, or an error
	// where it can't happen now. The random numbers are its own.
	do func(ctx context.Context, f *fleet, h *host, r *rand.Rand) (what string, undo func(), err error)
}

// happening is a fault of the plan: the plan follows from the seed alone.
type happening struct {
	fault *fault
	after time.Duration // since the happening before
	lasts time.Duration
	host  int
	r     *rand.Rand
}

// plan draws the next happening.
func plan(r *rand.Rand, faults []fault) happening {
	total := 0
	for _, k := range faults {
		total += k.weight
	}
	n := r.IntN(total)
	var kind *fault
	for i := range faults {
		if kind = &faults[i]; n < kind.weight {
			break
		}
		n -= kind.weight
	}
	return happening{
		fault: kind, after: between(r, 500*time.Millisecond, 3*time.Second), lasts: between(r, kind.lasts[0], kind.lasts[1]),
		host: r.IntN(hostCount), r: rand.New(rand.NewPCG(r.Uint64(), r.Uint64())),
	}
}

// disturb has faults happen for the time of the fleet, several at
// once, and returns when all are undone.
func (f *fleet) disturb(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, f.time)
	defer cancel()
	r := rand.New(rand.NewPCG(f.seed, 2))
	var under sync.WaitGroup
	defer under.Wait()
	busy := map[string]bool{} // faults of which the same host can have one at a time
	var mu sync.Mutex
	for {
		next := plan(r, faults)
		if !pause(ctx, next.after) {
			return
		}
		h := f.hosts[next.host]
		key := h.name + " " + next.fault.name
		h.faults.Add(1) // before the look whether the host is to be left alone
		mu.Lock()
		again := busy[key] || h.calm.Load()
		if !again {
			busy[key] = true
		}
		mu.Unlock()
		if again {
			h.faults.Add(-1)
			f.trail.count("faults left out")
			continue
		}
		under.Go(func() {
			defer h.faults.Add(-1)
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				delete(busy, key)
			}()
			what, undo, err := "", func() {}, errNotNow
			if f.wants(next.fault.name) {
				what, undo, err = next.fault.do(ctx, f, h, next.r)
			}
			if err != nil {
				f.trail.count("faults left out")
				return
			}
			name := fmt.Sprintf("%s: %s %s", h.name, next.fault.name, what)
			f.trail.note("fault %s, for %.1f s", name, next.lasts.Seconds())
			f.trail.count("faults")
			f.trail.count("fault: " + next.fault.name)
			pause(ctx, next.lasts)
			if undo != nil {
				undo()
				f.trail.note("over: %s", name)
			}
		})
	}
}

// wants tells whether a fault, or a mode of a sick server, may
// happen: HOLDFAST_FLEET_WITHOUT is a pattern of the forbidden ones.
func (f *fleet) wants(name string) bool { return f.without == nil || !f.without.MatchString(name) }
