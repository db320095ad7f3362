package obs

import (
	"math/bits"
	"time"
)

// leastCalls is the least number of calls of an epoch: with fewer, one slow call would
// make the whole store look slow.
const leastCalls = 8

// callClass is a kind of call together with the size of its data, to a factor of two.
// Calls of one class take about equally long.
type callClass uint8

const (
	callKinds = 4
	callSizes = 24 // the largest is 4 GiB and more
)

// classOf tells the class of a call that moved so many bytes, or deleted so many objects.
func classOf(op string, n int) callClass {
	kind, size := 0, bits.Len(uint(n)>>10)
	switch op {
	case opPut, opPutNew:
		kind = 1
	case opRead:
		kind = 2
	case opDelete:
		kind, size = 3, bits.Len(uint(n))
	}
	return callClass(kind*callSizes + min(size, callSizes-1))
}

// epoch is a number of calls that began one after the other. All of them count, and the
// epoch is over when the last of them has ended: if it counted the calls that end in a
// span of time, short calls would be overrepresented. It stops waiting for calls that do
// not end while many later calls begin (epochPatience). The limiter's lock guards it.
type epoch struct {
	number  int // from 1; of no other
	size    int // calls in all
	joining int // calls that are still to begin
	later   int // calls that began when all had joined
	open    int // calls that have begun
	ended   int // calls of the epoch that succeeded or were answered by "not found" or "exists"
	full    int // ended calls that ended while the limit was reached
	calls   [callKinds * callSizes]struct {
		n    int
		busy time.Duration
	}
}

// slot is the share of one call in the budget.
type slot struct {
	start time.Time
	epoch int // its epoch's number, or 0
}

// epochPatience is how many times its own calls may begin after it
// while an epoch waits for its last.
const epochPatience = 64

func newEpoch(number, calls int) epoch { return epoch{number: number, size: calls, joining: calls} }

// begin takes a call in, if calls are still to begin.
func (e *epoch) begin() slot {
	c := slot{start: time.Now()}
	if e.joining == 0 {
		e.later++
		return c
	}
	e.joining--
	e.open++
	c.epoch = e.number
	return c
}

// over tells whether all calls have ended that are worth waiting for.
func (e *epoch) over() bool { return e.joining == 0 && (e.open == 0 || e.later > epochPatience*e.size) }

// tells reports whether at least half of the epoch's calls were done, so that their
// times are representative.
func (e *epoch) tells() bool { return e.ended*2 >= e.size }

// costs holds the duration of a call of each class, in seconds at a speed of 1, so that
// the limiter can add up different calls as work: a store must not seem to do less work
// per second when it is asked for many small objects after a few large ones. A speed of
// 1 is the speed of the store in the first epoch, so speeds can only be compared with
// each other. 0 is a class that no call had yet.
type costs [callKinds * callSizes]float64

// costWeight is the weight of an epoch beside all epochs before it.
const costWeight = 0.15

// speed is the speed of the calls of an epoch whose classes are known, and the number
// of those calls.
func (c *costs) speed(e *epoch) (speed float64, known int) {
	var cost, busy float64
	for i, calls := range e.calls {
		if c[i] > 0 {
			known += calls.n
			cost += float64(calls.n) * c[i]
			busy += calls.busy.Seconds()
		}
	}
	if busy > 0 {
		speed = cost / busy
	}
	return speed, known
}

// learn corrects the costs by the calls of an epoch of that speed. They change beside each
// other, not in sum: a store that gets slow stays slower than before, however long that lasts.
func (c *costs) learn(e *epoch, speed float64) {
	for i, calls := range e.calls {
		if calls.n == 0 {
			continue
		}
		cost := calls.busy.Seconds() / float64(calls.n) * speed
		if c[i] == 0 {
			c[i] = cost
			continue
		}
		c[i] += (cost - c[i]) * costWeight // the same for each class: so their sum stays as it is
	}
}
