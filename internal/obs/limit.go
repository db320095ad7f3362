package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound the traffic of a host with its stores. The zero value has no bound but
// the number of requests that the store bears.
type Limits struct {
	Up, Down int64   // bytes a second, MinRate or more; 0 is any number
	Requests float64 // a second; 0 is any number
	InFlight int     // requests at once at most; 0 is maxLevel
}

// LimiterState is the present state of a limiter.
type LimiterState struct {
	Limits   Limits
	InFlight int // requests under way
	Waiting  int // calls that wait for one to end
	Level    int // requests that may be under way now
}

// Limiter holds all calls to the stores of a host within one budget, and finds
// how many requests the store bears: more while that gets more done, fewer
// when the store asks for it or gets slow. Calls wait their turn in the order
// in which they came. It is safe for any number of goroutines and starts none.
type Limiter struct {
	up, down, requests pacer

	mu       sync.Mutex
	limits   Limits
	level    level
	inFlight int
	waiting  []chan struct{} // closed when a slot is theirs
	// why the store did not do the last call that it ended; nil when it did
	trouble error

	epoch epoch
	costs costs
	speed float64   // of the last epoch that told of it; 0 is not known
	cut   time.Time // of the last slowDown
}

// NewLimiter makes a limiter.
func NewLimiter(limits Limits) *Limiter {
	l := &Limiter{level: newLevel()}
	l.newEpoch()
	l.Set(limits)
	return l
}

// Set changes the limits, also for calls under way.
func (l *Limiter) Set(limits Limits) {
	l.up.set(float64(limits.Up))
	l.down.set(float64(limits.Down))
	l.requests.set(limits.Requests)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = limits
	l.level.most = mostInFlight(limits)
	before := l.level.limit
	if l.level.set(before); l.level.limit != before {
		l.newEpoch()
	}
	l.grant()
}

// MinRate is the share of each request in a rate limit, in bytes a second, and so the
// least rate limit. With a smaller share a connection would look dead to the server,
// and many slow requests get no more done than a few.
const MinRate = 16 << 10

// mostInFlight is the highest level within limits.
func mostInFlight(limits Limits) int {
	most := maxLevel
	if limits.InFlight > 0 {
		most = min(most, limits.InFlight)
	}
	for _, rate := range []int64{limits.Up, limits.Down} {
		if rate > 0 {
			most = int(min(int64(most), max(1, rate/MinRate)))
		}
	}
	return most
}

// State returns the present state of the limiter.
func (l *Limiter) State() LimiterState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LimiterState{l.limits, l.inFlight, len(l.waiting), l.level.limit}
}

// Store makes a store whose calls this limiter holds back. The limiter holds back the bytes
// of s3 and obs as they move; the bytes of other stores before a put and after a read. A list
// counts as one request and takes no slot, since its caller may make other calls meanwhile.
func (l *Limiter) Store(s Store) Store { return &limited{s, l, pacesItself(s)} }

// pacesItself tells whether a store asks the pace in its context.
func pacesItself(s Store) bool {
	switch s := s.(type) {
	case *observed:
		return pacesItself(s.Store)
	case *s3Store:
		return true
	}
	return false
}

// enter waits for the turn of a call.
func (l *Limiter) enter(ctx context.Context) (slot, error) {
	if err := l.requests.take(ctx, 1); err != nil {
		return slot{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 && l.free() {
		l.inFlight++
		return l.epoch.begin(), nil
	}
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.mu.Unlock()
	select {
	case <-turn:
		l.mu.Lock()
		return l.epoch.begin(), nil
	case <-ctx.Done():
		l.mu.Lock()
		l.withdraw(turn)
		if l.trouble != nil { // the reason why the calls before it wait
			return slot{}, fmt.Errorf("%w, while it waited behind others: %w", ctx.Err(), l.trouble)
		}
		return slot{}, ctx.Err()
	}
}

// free tells whether there is a slot. The lock is held.
func (l *Limiter) free() bool { return l.inFlight < l.level.limit }

// grant gives free slots to waiting calls. The caller holds the lock.
func (l *Limiter) grant() {
	for len(l.waiting) > 0 && l.free() {
		l.inFlight++
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
}

// withdraw gives up a turn, or the slot that came meanwhile. The lock is held.
func (l *Limiter) withdraw(turn chan struct{}) {
	for i, w := range l.waiting {
		if w == turn {
			l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
			return
		}
	}
	l.inFlight--
	l.grant()
}

// leave ends a call that moved n bytes, or deleted n objects, and learns from it.
func (l *Limiter) leave(c slot, op string, n int, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	full := !l.free()
	l.inFlight--
	defer l.grant()
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrExists):
		l.trouble, err = nil, nil // the server did its work
	case errors.Is(err, ErrUnavailable):
		l.trouble = err
	}
	var asked interface{ SlowDown() bool }
	// requests that were under way then tell nothing new
	if errors.As(err, &asked) && asked.SlowDown() && c.start.After(l.cut) {
		l.level.slowDown()
		l.cut = now
		l.newEpoch()
		return
	}
	e := &l.epoch
	if c.epoch == e.number { // else it tells of another level, or would count for more than it is
		e.open--
		if err == nil { // else it did no work, and how long that took says nothing
			e.ended++
			if full {
				e.full++
			}
			of := &e.calls[classOf(op, n)]
			of.n++
			of.busy += now.Sub(c.start)
		}
	}
	if e.over() {
		l.endEpoch()
	}
}

// endEpoch learns from an epoch, and begins the next one. The lock is held.
func (l *Limiter) endEpoch() {
	defer l.newEpoch()
	e := &l.epoch
	if !e.tells() {
		return
	}
	speed, known := l.costs.speed(e)
	judged := known*2 >= e.ended
	switch {
	case speed > 0 && (judged || l.speed == 0):
	case l.speed > 0: // then take the last speed for the classes that are not known
		speed = l.speed
	default:
		speed, judged = 1, true
	}
	l.costs.learn(e, speed)
	// else there were too few calls to tell the effect of another limit
	if judged && e.full*2 >= e.ended {
		l.speed = speed
		// By Little's law. A count of the calls that end in a span of time would depend
		// on where in a batch the span ends.
		l.level.epoch(float64(l.level.limit) * speed)
	}
}

// newEpoch begins an epoch. The lock is held.
func (l *Limiter) newEpoch() { l.epoch = newEpoch(l.epoch.number+1, max(leastCalls, l.level.limit)) }

// paceKey is the key of a context's value that holds the pace of its call.
type paceKey struct{}

// pace bounds the speed of the bytes of one call.
type pace struct {
	pacer *pacer
	// how many are waiting for it now: a connection that is held back is not a dead one
	held atomic.Int64
}

// take waits until n bytes are due.
func (p *pace) take(ctx context.Context, n int) error {
	p.held.Add(1)
	defer p.held.Add(-1)
	return p.pacer.take(ctx, n)
}

// limited is a store within the budget of a limiter.
type limited struct {
	Store
	l      *Limiter
	inside bool // the store moves its bytes at the pace in the context
}

// do makes one call within the budget. It moves bytes at the pace of
// p; f returns how many it moved, or how many objects it deleted.
func (s *limited) do(ctx context.Context, op, key string, p *pacer, f func(context.Context) (int, error)) error {
	c, err := s.l.enter(ctx)
	if err != nil {
		return noEffect(ended(ctx, op, key))
	}
	n, err := f(context.WithValue(ctx, paceKey{}, &pace{pacer: p}))
	s.l.leave(c, op, n, err)
	return err
}

// prepay waits until all bytes of a call are due, where the store does not pace them.
func (s *limited) prepay(ctx context.Context, op, key string, p *pacer, n int) error {
	if s.inside {
		return nil
	}
	for n > 0 {
		part := p.chunk(n)
		if err := p.take(ctx, part); err != nil {
			return noEffect(ended(ctx, op, key))
		}
		n -= part
	}
	return nil
}

func (s *limited) put(ctx context.Context, op, key string, body []byte, f func(context.Context) error) error {
	if err := s.prepay(ctx, op, key, &s.l.up, len(body)); err != nil {
		return err
	}
	return s.do(ctx, op, key, &s.l.up, func(ctx context.Context) (int, error) { return len(body), f(ctx) })
}

func (s *limited) Put(ctx context.Context, key string, body []byte) error {
	return s.put(ctx, opPut, key, body, func(ctx context.Context) error { return s.Store.Put(ctx, key, body) })
}

func (s *limited) PutNew(ctx context.Context, key string, body []byte) error {
	return s.put(ctx, opPutNew, key, body, func(ctx context.Context) error { return s.Store.PutNew(ctx, key, body) })
}

func (s *limited) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	eof := false
	err = s.do(ctx, opRead, key, &s.l.down, func(ctx context.Context) (int, error) {
		n, err = s.Store.ReadAt(ctx, key, p, off)
		if eof = err == io.EOF; eof { //nolint:errorlint // the contract is io.EOF itself
			return n, nil
		}
		return n, err
	})
	if perr := s.prepay(ctx, opRead, key, &s.l.down, n); err == nil && perr != nil {
		return n, perr
	}
	if eof && err == nil {
		return n, io.EOF
	}
	return n, err
}

func (s *limited) Stat(ctx context.Context, key string) (in Info, err error) {
	err = s.do(ctx, opStat, key, &s.l.down, func(ctx context.Context) (int, error) {
		in, err = s.Store.Stat(ctx, key)
		return 0, err
	})
	return in, err
}

func (s *limited) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return s.Store.Delete(ctx)
	}
	return s.do(ctx, opDelete, keys[0], &s.l.down, func(ctx context.Context) (int, error) {
		return len(keys), s.Store.Delete(ctx, keys...)
	})
}

func (s *limited) Extend(ctx context.Context, key string, until time.Time) error {
	return s.do(ctx, opExtend, key, &s.l.down, func(ctx context.Context) (int, error) {
		return 0, s.Store.Extend(ctx, key, until)
	})
}

func (s *limited) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.listAfter(ctx, prefix, "")
}

func (s *limited) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := s.l.requests.take(ctx, 1); err != nil {
			yield(Info{}, ended(ctx, opList, prefix))
			return
		}
		for in, err := range listFrom(ctx, s.Store, prefix, after) {
			if !yield(in, err) {
				return
			}
		}
	}
}
