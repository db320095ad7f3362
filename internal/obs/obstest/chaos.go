package obstest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// Odds are how likely each fault of a Chaos is, from 0 to 1.
type Odds struct {
	Before float64 // obs.ErrUnavailable, and nothing happened
	After  float64 // obs.ErrUnavailable, but it happened: a 500 after success
	Short  float64 // a read breaks after some of its bytes
	Damage float64 // a read gives a wrong byte
	Lag    float64 // a list lacks the objects that were put last
	Hard   float64 // an error that no repetition mends
	Err    error   // that error; nil is obs.ErrNoSpace
}

// Chaos is a store in which calls fail by chance, given by a seed. It is safe for any
// number of goroutines; the order in which they call decides which call meets which fault.
type Chaos struct {
	obs.Store

	mu     sync.Mutex
	rand   *rand.Rand
	odds   Odds
	recent []string // keys that were put last
	faults int
}

// lagging is how many objects a list may lack.
const lagging = 3

// NewChaos wraps a store. Closing it closes the inner store.
func NewChaos(s obs.Store, seed uint64, odds Odds) *Chaos {
	c := &Chaos{Store: s, rand: rand.New(rand.NewPCG(seed, 0))}
	c.Set(odds)
	return c
}

// Set changes the odds, and returns how many faults there were so far.
func (c *Chaos) Set(odds Odds) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if odds.Err == nil {
		odds.Err = obs.ErrNoSpace
	}
	c.odds = odds
	return c.faults
}

func (c *Chaos) happens(odds func(Odds) float64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rand.Float64() >= odds(c.odds) {
		return false
	}
	c.faults++
	return true
}

func (c *Chaos) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.IntN(n)
}

// call runs one call with a fault around it.
func (c *Chaos) call(ctx context.Context, op Op, key string, work func() error) error {
	switch {
	case ctx.Err() != nil:
		return work()
	case c.happens(func(o Odds) float64 { return o.Hard }):
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("%s %s: by chance: %w", op, key, c.odds.Err)
	case c.happens(func(o Odds) float64 { return o.Before }):
		return fmt.Errorf("%s %s: by chance: %w", op, key, obs.ErrUnavailable)
	}
	err := work()
	if err == nil && c.happens(func(o Odds) float64 { return o.After }) {
		return fmt.Errorf("%s %s: by chance, though it was done: %w", op, key, obs.ErrUnavailable)
	}
	return err
}

func (c *Chaos) put(ctx context.Context, key string, work func() error) error {
	return c.call(ctx, Put, key, func() error {
		err := work()
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.recent = append(c.recent, key)
			c.recent = c.recent[max(0, len(c.recent)-lagging):]
		}
		return err
	})
}

// Put is the inner store's, with faults.
func (c *Chaos) Put(ctx context.Context, key string, body []byte) error {
	return c.put(ctx, key, func() error { return c.Store.Put(ctx, key, body) })
}

// PutNew is the inner store's, with faults.
func (c *Chaos) PutNew(ctx context.Context, key string, body []byte) error {
	return c.put(ctx, key, func() error { return c.Store.PutNew(ctx, key, body) })
}

// ReadAt is the inner store's, with faults.
func (c *Chaos) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	eof := false
	err = c.call(ctx, Read, key, func() error {
		if len(p) > 1 && c.happens(func(o Odds) float64 { return o.Short }) {
			if n, err = c.Store.ReadAt(ctx, key, p[:c.intN(len(p))], off); err == nil {
				err = fmt.Errorf("%s %s: by chance, in the middle: %w", Read, key, obs.ErrUnavailable)
			}
			return err
		}
		n, err = c.Store.ReadAt(ctx, key, p, off)
		if eof = err == io.EOF; eof { //nolint:errorlint // io.EOF itself
			err = nil
		}
		if n > 0 && c.happens(func(o Odds) float64 { return o.Damage }) {
			p[c.intN(n)] ^= 1
		}
		return err
	})
	if err == nil && eof {
		err = io.EOF
	}
	return n, err
}

// Stat is the inner store's, with faults.
func (c *Chaos) Stat(ctx context.Context, key string) (in obs.Info, err error) {
	err = c.call(ctx, Stat, key, func() error {
		in, err = c.Store.Stat(ctx, key)
		return err
	})
	if err != nil {
		return obs.Info{}, err
	}
	return in, nil
}

// List is the inner store's, with faults.
func (c *Chaos) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		var lacks []string
		if c.happens(func(o Odds) float64 { return o.Lag }) {
			c.mu.Lock()
			lacks = slices.Clone(c.recent)
			c.mu.Unlock()
		}
		stopped := false
		err := c.call(ctx, List, prefix, func() error {
			for in, err := range c.Store.List(ctx, prefix) {
				switch {
				case err != nil:
					return err
				case slices.Contains(lacks, in.Key):
				case !yield(in, nil):
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(obs.Info{}, err)
		}
	}
}

// Extend is the inner store's, with faults.
func (c *Chaos) Extend(ctx context.Context, key string, until time.Time) error {
	return c.call(ctx, Extend, key, func() error { return c.Store.Extend(ctx, key, until) })
}

// Delete is the inner store's, with faults.
func (c *Chaos) Delete(ctx context.Context, keys ...string) error {
	key := ""
	if len(keys) > 0 {
		key = keys[0]
	}
	return c.call(ctx, Delete, key, func() error { return c.Store.Delete(ctx, keys...) })
}
