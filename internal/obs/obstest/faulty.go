package obstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// Op names a method of obs.Store in a Fault.
type Op string

// The operations. Any stands for all of them.
const (
	Any    Op = ""
	Put    Op = "put" // Put and PutNew
	Read   Op = "read"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
	Extend Op = "extend lock"
)

// Fault is a fault and the calls that it meets. The zero value fails every call with
// obs.ErrUnavailable.
type Fault struct {
	Op Op // of which operation
	// of which keys (the prefix of a list, the first key of a delete); nil: all
	Key func(key string) bool
	// Nth is the first call that the fault meets, counted from 1 among the calls of Op
	// and Key since Inject; 0 is 1.
	Nth int
	// Times is how many calls it meets; 0 is all from the Nth on.
	Times int

	// Err is the error that the call returns; nil means obs.ErrUnavailable, unless
	// Corrupt or Block is set.
	Err error
	// After lets the call do its work first: its outcome is then unknown to the caller.
	After bool
	// Corrupt changes the bytes that a read gives; the read succeeds. Size and name stay.
	Corrupt func(p []byte, off int64)
	// Block holds the call until the channel is closed or its context
	// ends; then it goes on without a fault.
	Block <-chan struct{}
	// Entered, if set, gets one value for each call that the fault meets,
	// before anything else happens. It must have room or a reader.
	Entered chan<- string
}

// Call is one call that a Faulty saw.
type Call struct {
	Op  Op
	Key string
	Err error // as the caller got it
}

// Faulty is a store that passes each call to an inner store, except for the calls that
// meet an injected fault. It is safe for any number of goroutines.
type Faulty struct {
	obs.Store

	mu     sync.Mutex
	faults []*fault
	calls  []Call
}

type fault struct {
	Fault
	seen int
}

// NewFaulty wraps a store. Closing it closes the inner store.
func NewFaulty(s obs.Store) *Faulty { return &Faulty{Store: s} }

// Inject adds a fault. If several faults meet one call, the first added acts.
func (f *Faulty) Inject(x Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault{Fault: x})
}

// Heal removes all faults. Calls that are held stay held.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Calls returns the calls so far, in the order in which they ended.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Count is how many calls of op ended for key; an empty key stands for all.
func (f *Faulty) Count(op Op, key string) int {
	n := 0
	for _, c := range f.Calls() {
		if (op == Any || c.Op == op) && (key == "" || c.Key == key) {
			n++
		}
	}
	return n
}

// match returns the fault that meets this call, or nil.
func (f *Faulty) match(op Op, key string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var met *Fault
	for _, x := range f.faults {
		if x.Op != Any && x.Op != op || x.Key != nil && !x.Key(key) {
			continue
		}
		x.seen++
		first := max(x.Nth, 1)
		if met == nil && x.seen >= first && (x.Times == 0 || x.seen < first+x.Times) {
			met = &x.Fault
		}
	}
	return met
}

func (f *Faulty) end(op Op, key string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{op, key, err})
	return err
}

// do runs one call with its fault. work gets the fault, to corrupt the bytes that it read.
func (f *Faulty) do(ctx context.Context, op Op, key string, work func(*Fault) error) error {
	x := f.match(op, key)
	if x == nil {
		return f.end(op, key, work(&Fault{}))
	}
	if x.Entered != nil {
		x.Entered <- key
	}
	if x.Block != nil {
		select {
		case <-x.Block:
		case <-ctx.Done():
			return f.end(op, key, fmt.Errorf("%s %s: %w", op, key, context.Cause(ctx)))
		}
	}
	if x.Err == nil && !x.After && (x.Block != nil || x.Corrupt != nil) {
		return f.end(op, key, work(x))
	}
	if x.After {
		if err := work(x); err != nil && err != io.EOF { //nolint:errorlint // io.EOF itself
			return f.end(op, key, err)
		}
	}
	cause := x.Err
	if cause == nil {
		cause = obs.ErrUnavailable
	}
	return f.end(op, key, fmt.Errorf("%s %s: injected: %w", op, key, cause))
}

// Put is the inner store's, with faults.
func (f *Faulty) Put(ctx context.Context, key string, body []byte) error {
	return f.do(ctx, Put, key, func(*Fault) error { return f.Store.Put(ctx, key, body) })
}

// PutNew is the inner store's, with faults.
func (f *Faulty) PutNew(ctx context.Context, key string, body []byte) error {
	return f.do(ctx, Put, key, func(*Fault) error { return f.Store.PutNew(ctx, key, body) })
}

// ReadAt is the inner store's, with faults.
func (f *Faulty) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = f.do(ctx, Read, key, func(x *Fault) error {
		var err error
		n, err = f.Store.ReadAt(ctx, key, p, off)
		if x.Corrupt != nil {
			x.Corrupt(p[:n], off)
		}
		return err
	})
	if err != nil && err != io.EOF && !errors.Is(err, obs.ErrUnavailable) { //nolint:errorlint // io.EOF itself
		return 0, err
	}
	return n, err
}

// Stat is the inner store's, with faults.
func (f *Faulty) Stat(ctx context.Context, key string) (in obs.Info, err error) {
	err = f.do(ctx, Stat, key, func(*Fault) error {
		var err error
		in, err = f.Store.Stat(ctx, key)
		return err
	})
	if err != nil {
		return obs.Info{}, err
	}
	return in, nil
}

// List is the inner store's, with faults. A fault with After ends a list behind its first object.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		stopped := false
		err := f.do(ctx, List, prefix, func(x *Fault) error {
			for in, err := range f.Store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if !yield(in, nil) {
					stopped = true
					return nil
				}
				if x.After {
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
func (f *Faulty) Extend(ctx context.Context, key string, until time.Time) error {
	return f.do(ctx, Extend, key, func(*Fault) error { return f.Store.Extend(ctx, key, until) })
}

// Delete is the inner store's, with faults.
func (f *Faulty) Delete(ctx context.Context, keys ...string) error {
	key := ""
	if len(keys) > 0 {
		key = keys[0]
	}
	return f.do(ctx, Delete, key, func(*Fault) error { return f.Store.Delete(ctx, keys...) })
}
