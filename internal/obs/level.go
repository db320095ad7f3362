package obs

const (
	// minLevel and maxLevel bound the requests in flight: one goes on beside one on
	// a dead connection (unless the limits allow for one only), and more than a
	// store has connections for (idleConnections) would open new ones all the time.
	minLevel, maxLevel = 2, idleConnections
	// firstLevel is a limiter's first level. The limiter doubles it until that no longer pays.
	firstLevel = 8
)

// level finds how many requests to have in flight: for one epoch it tries more or fewer,
// and keeps the number that pays. More requests pay if they get more work done in the same
// time; fewer pay if they get about as much done. With a given number in flight, work per
// second falls as latency rises (Little's law), so level watches both by one figure. Its
// steps get longer while they pay in one direction; after a step that does not pay, level
// turns back and rests for a while. It is a pure state machine: no clock, no lock.
type level struct {
	limit int
	most  int     // the highest limit
	usual float64 // work per second at this limit, averaged over the last epochs; 0 is not known

	probing bool
	from    int // the limit before the probe
	step    int // of the next probe, or of this one; below 0 it tries fewer
	rest    int // epochs until the next probe
	patient int // the rest after the next probe that does not pay
}

const (
	levelWeight  = 0.3  // of an epoch in the average
	levelPays    = 1.05 // more in flight pay from here
	levelEnough  = 0.95 // fewer are enough from here
	levelSlow    = 0.6  // below this something else has become slow
	levelCut     = 0.7  // the factor of the limit after the store asked for fewer requests
	levelPatient = 16   // epochs between probes at most
)

func newLevel() level {
	return level{limit: firstLevel, most: maxLevel, step: firstLevel, patient: 2}
}

func (l *level) set(limit int) { l.limit = min(max(minLevel, limit), l.most) }

// slowDown is called when the store asks for fewer requests.
func (l *level) slowDown() {
	l.set(int(float64(l.limit) * levelCut))
	l.probing, l.usual, l.step, l.rest = false, 0, 1, levelPatient/2
}

// epoch is called with the work per second of a time in which the limit was reached all along.
func (l *level) epoch(rate float64) {
	paid := l.step > 0 && rate >= l.usual*levelPays || l.step < 0 && rate >= l.usual*levelEnough
	switch {
	case l.probing && paid:
		l.usual = rate
		l.step, l.patient = l.step*2, 2
	case l.probing:
		l.set(l.from)
		l.step = -sign(l.step) // the shortest, the other way
		l.rest, l.patient = l.patient, min(l.patient*2, levelPatient)
	case l.usual == 0:
		l.usual, l.rest = rate, max(1, l.rest)
	case rate < l.usual*levelSlow:
		l.set(int(float64(l.limit) * levelCut))
		l.usual, l.rest = 0, 2
		return
	default:
		l.usual += levelWeight * (rate - l.usual)
	}
	l.probing = false
	if l.rest > 0 {
		l.rest--
		return
	}
	l.try()
}

// try begins a probe. A step is an eighth of the limit at least, or
// nobody could tell whether it paid, and at most doubles or halves it.
func (l *level) try() {
	l.from = l.limit
	least, most := max(1, l.limit/8), l.limit
	if l.step < 0 {
		most = max(1, l.limit/2)
	}
	l.step = sign(l.step) * max(least, min(most, l.step*sign(l.step)))
	l.set(l.limit + l.step)
	if l.probing = l.limit != l.from; !l.probing { // at the end of the range
		l.step, l.rest = -sign(l.step), l.patient
	}
}

func sign(n int) int {
	if n < 0 {
		return -1
	}
	return 1
}
