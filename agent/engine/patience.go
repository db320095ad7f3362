package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/agent/job"
	"holdfast/internal/contain"
)

// Storage may not answer: a suspended device, a network file system whose server is away, a FUSE
// whose program hangs. A call of the kernel on it returns when the storage answers, whatever
// becomes of the caller. So each call on a volume has a goroutine that is left behind when the time
// of the call is over, and a volume on which a call hangs gets no other one until that call is
// over: however often the volume is asked for, few goroutines hang.

// Bounds of calls on storage, each with its reason.
const (
	// askTime is the time of a look for which a caller of the API waits,
	// or that is made for many volumes: a look takes milliseconds.
	askTime = 5 * time.Second
	// lookTime is the time of a job's look: a disk that spins
	// up, or a file system that recovers, takes seconds.
	lookTime = 30 * time.Second
	// planTime is what naming a snapshot gets, for which programs of LVM may run.
	planTime = 2 * time.Minute
	// snapshotTime is what making a snapshot gets: the flush before it may have gigabytes to write.
	snapshotTime = 10 * time.Minute
	// removeTime is the time of a removal for which somebody waits. It goes on after that.
	removeTime = 2 * time.Minute
	// forEver is for what ends with its context alone.
	forEver = 1 << 62 * time.Nanosecond
	// hungTime is the time in which a hanging call has to end when a caller of the
	// API, or a look at many volumes, wants another call on the same volume. A job
	// waits for as long as for a look, since the hanging call may only be slow.
	hungTime = time.Second
)

// EngineTime is the time in which an engine, or a call on storage, has to end after
// its context: no call on storage that answers takes as long. Only tests change it.
var EngineTime = 30 * time.Second

// patience bounds calls on storage. The zero value is ready. It is for any number of goroutines.
type patience struct {
	mu    sync.Mutex
	calls map[string]*call // for which several callers may wait, by their act
	hung  map[string]*call // that a caller gave up, by volume
}

// call is one call on storage.
type call struct {
	what  string
	began time.Time
	done  chan struct{} // closed when it is over
	val   any           // valid then
	err   error
}

// await waits for the end of the call, but not beyond the limit, or the end of ctx and then grace.
func (c *call) await(ctx context.Context, limit, grace time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
		timer.Reset(min(limit, grace))
		select {
		case <-c.done:
			return true
		case <-timer.C:
		}
	}
	return false
}

// noAnswer is the error of a caller that stops waiting.
func (c *call) noAnswer() error {
	return fmt.Errorf("%w: %s has not ended for %s; see whether its disk, or the server of its file system, answers", job.ErrNoAnswer, c.what,
		time.Since(c.began).Round(time.Second))
}

// ask makes a call whose answer is of use to all who ask the same of the volume, and who all wait
// for that one. The end of a caller's context does not end it.
func ask[T any](ctx context.Context, p *patience, volume, what string, limit time.Duration, do func(context.Context) (T, error)) (T, error) {
	return call1(ctx, p, volume, what, what+" "+volume, limit, 0, do)
}

// act makes a call that nobody shares. The end of the caller's
// context ends the context of the call, which gets grace to end.
func act[T any](ctx context.Context, p *patience, volume, what string, limit, grace time.Duration, do func(context.Context) (T, error)) (T, error) {
	return call1(ctx, p, volume, what, "", limit, grace, do)
}

func call1[T any](ctx context.Context, p *patience, volume, what, shared string, limit, grace time.Duration, do func(context.Context) (T, error)) (T, error) {
	var none T
	p.mu.Lock()
	c := p.calls[shared]
	if before := p.hung[volume]; before != nil && (c == nil || c != before) {
		p.mu.Unlock()
		if !before.await(ctx, hungLimit(limit), 0) {
			return none, before.noAnswer()
		}
		p.mu.Lock()
		c = p.calls[shared]
	}
	if c == nil {
		c = &call{what: fmt.Sprintf("%s of %s", what, volume), began: time.Now(), done: make(chan struct{})}
		if shared != "" {
			if p.calls == nil {
				p.calls = map[string]*call{}
			}
			p.calls[shared] = c
		}
		begin(ctx, p, c, volume, shared, limit, do)
	}
	p.mu.Unlock()
	if p.isHung(volume, c) {
		limit = hungLimit(limit)
	}
	if !c.await(ctx, limit, grace) {
		if ctx.Err() == nil || shared == "" { // who goes away by itself says nothing of the storage
			p.give(volume, c)
		}
		if cause := context.Cause(ctx); cause != nil {
			return none, fmt.Errorf("%w: %w", cause, c.noAnswer())
		}
		return none, c.noAnswer()
	}
	val, _ := c.val.(T)
	return val, c.err
}

// begin starts the call. The lock is held.
func begin[T any](ctx context.Context, p *patience, c *call, volume, shared string, limit time.Duration, do func(context.Context) (T, error)) {
	if shared != "" {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %s", job.ErrNoAnswer, limit))
	go func() {
		defer cancel()
		c.val, c.err = contain.Value(func() (any, error) { return do(ctx) })
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.calls[shared] == c {
			delete(p.calls, shared)
		}
		if p.hung[volume] == c {
			delete(p.hung, volume)
		}
		close(c.done)
	}()
}

// hungLimit is how long a caller with that much time waits for a call that hangs already.
func hungLimit(limit time.Duration) time.Duration {
	if limit <= askTime {
		return min(limit, hungTime)
	}
	return min(limit, lookTime)
}

func (p *patience) isHung(volume string, c *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hung[volume] == c
}

// give notes that a caller has given the call up, unless it has just ended, or another one hangs.
func (p *patience) give(volume string, c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-c.done:
		return
	default:
	}
	if p.hung == nil {
		p.hung = map[string]*call{}
	}
	if p.hung[volume] == nil {
		p.hung[volume] = c
	}
}

// NoAnswer tells whether an error says that the storage does not answer.
func NoAnswer(err error) bool { return errors.Is(err, job.ErrNoAnswer) }
