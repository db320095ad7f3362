package report

import (
	"math/rand/v2"
	"time"
)

const (
	// opensAfter is how many tries in a row fail before the receiver counts as away: one
	// instance's event that the receiver can't digest must not hold up the events of the others.
	opensAfter = 3
	// firstBackOff is the pause after a first failure, doubled after each further one.
	firstBackOff = time.Second
	// lastBackOff keeps an instance that waits for its acknowledgement from waiting long after the
	// control plane is back.
	lastBackOff = time.Minute
	// longestRetryAfter bounds the pause that a server may ask for.
	longestRetryAfter = 15 * time.Minute
)

// breaker says whether the receiver of reports may be asked. After some failures in a
// row it counts as away: then one event is sent at a time, ever more rarely, however
// many wait. The first word of the control plane ends that. It is for one goroutine.
type breaker struct {
	failures int // in a row
	away     bool
	next     time.Time // while away: when it may be asked
}

// failed notes a try that was not answered by the control plane. after is the pause that the
// receiver asked for; 0: none. first is true when the receiver counts as away from now on.
func (b *breaker) failed(now time.Time, probe bool, after time.Duration) (first bool) {
	if b.away && !probe {
		return false // sent before the receiver counted as away
	}
	b.failures++
	if b.failures < opensAfter && after == 0 {
		return false
	}
	first = !b.away
	b.away = true
	b.next = now.Add(pause(b.failures, after))
	return first
}

// answered notes a word of the control plane. back is true when it counted as away.
func (b *breaker) answered() (back bool) {
	back = b.away
	*b = breaker{}
	return back
}

// pause is the pause after so many failures in a row, or the pause that the receiver asked for.
func pause(failures int, after time.Duration) time.Duration {
	if after > 0 {
		return after
	}
	return backOff(failures)
}

// backOff is the pause after so many failures in a row: doubling, up to lastBackOff, of
// which a random half to whole is taken, so that a thousand hosts do not come back at once.
func backOff(failures int) time.Duration {
	pause := lastBackOff
	if failures < 8 {
		pause = min(pause, firstBackOff<<(failures-1))
	}
	return pause/2 + rand.N(pause/2+1)
}
