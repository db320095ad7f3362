package janitor

import (
	"context"
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/obs"
)

// Pace bounds the requests of one run. The zero value bounds nothing.
type Pace struct {
	// Requests is how many requests a second are sent; 0 is no limit. A page of a list is one.
	Requests int
	// Pressed tells that requests that can wait are to wait, as while an instance stands still for
	// a backup. Nil is never. It is asked at most once a second.
	Pressed func() bool
}

// pageSize is how many objects one request of a list returns.
const pageSize = 1000

// pressedPoll is how often Pressed is asked.
const pressedPoll = time.Second

// Paced returns the store of one run, whose requests keep to the pace until ctx ends. After that,
// the few requests that end the run are sent at once. Bulk requests alone wait while the host is
// pressed: a run that gives up has little time to take its announcements back. Close is not passed
// on, since others use the store.
func Paced(ctx context.Context, st obs.Store, p Pace) obs.Store {
	return &paced{Store: st, pace: p, over: ctx.Done()}
}

type paced struct {
	obs.Store
	pace Pace
	over <-chan struct{}
	// closed says that Close was called.
	closed atomic.Bool

	mu    sync.Mutex
	next  time.Time // of the next request
	asked time.Time // the last call of Pressed that said no
}

// bulk tells whether a key is of the objects of which a prune reads and deletes many.
func bulk(key string) bool {
	return strings.Contains(key, "/packs/") || strings.Contains(key, "/backups/")
}

// wait waits for the turn of a request on an object, or on objects that begin with key.
func (p *paced) wait(ctx context.Context, key string) error {
	if p.closed.Load() {
		return os.ErrClosed
	}
	for bulk(key) && p.pressed() {
		if err := p.sleep(ctx, pressedPoll); err != nil || p.ended() {
			return err
		}
	}
	if p.pace.Requests <= 0 || p.ended() {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	pause := p.next.Sub(now)
	p.next = p.next.Add(time.Second / time.Duration(p.pace.Requests))
	p.mu.Unlock()
	return p.sleep(ctx, pause)
}

func (p *paced) pressed() bool {
	if p.pace.Pressed == nil || p.ended() {
		return false
	}
	p.mu.Lock()
	recent := !p.asked.IsZero() && time.Since(p.asked) < pressedPoll
	p.mu.Unlock()
	if recent {
		return false
	}
	if p.pace.Pressed() {
		return true
	}
	p.mu.Lock()
	p.asked = time.Now()
	p.mu.Unlock()
	return false
}

func (p *paced) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// sleep waits for that time, or for the end of the run.
func (p *paced) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// Put implements obs.Store.
func (p *paced) Put(ctx context.Context, key string, body []byte) error {
	if err := p.wait(ctx, key); err != nil {
		return err
	}
	return p.Store.Put(ctx, key, body)
}

// PutNew implements obs.Store.
func (p *paced) PutNew(ctx context.Context, key string, body []byte) error {
	if err := p.wait(ctx, key); err != nil {
		return err
	}
	return p.Store.PutNew(ctx, key, body)
}

// ReadAt implements obs.Store.
func (p *paced) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	if err := p.wait(ctx, key); err != nil {
		return 0, err
	}
	return p.Store.ReadAt(ctx, key, b, off)
}

// Stat implements obs.Store.
func (p *paced) Stat(ctx context.Context, key string) (obs.Info, error) {
	if err := p.wait(ctx, key); err != nil {
		return obs.Info{}, err
	}
	return p.Store.Stat(ctx, key)
}

// List implements obs.Store.
func (p *paced) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		if err := p.wait(ctx, prefix); err != nil {
			yield(obs.Info{}, err)
			return
		}
		n := 0
		for info, err := range p.Store.List(ctx, prefix) {
			if n++; err == nil && n%pageSize == 0 {
				err = p.wait(ctx, prefix)
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Delete implements obs.Store. The keys are deleted by one request, or by one for each, as the
// store does it.
func (p *paced) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	if err := p.wait(ctx, keys[0]); err != nil {
		return err
	}
	return p.Store.Delete(ctx, keys...)
}

// Close implements obs.Store.
func (p *paced) Close() error {
	p.closed.Store(true)
	return nil
}
