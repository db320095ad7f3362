package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"time"
)

// RetryPolicy says how often and how long a call is tried again. The zero value tries until the
// context ends, at the default pace.
type RetryPolicy struct {
	// MaxElapsed is how long a call may take with all its tries and
	// waits; 0 means only the context limits it.
	MaxElapsed time.Duration
	// MaxAttempts is how often a call is tried in all; 0 means any number, 1 means no retry.
	MaxAttempts int
	// Base bounds the first wait. The bound doubles with each try, up to Cap. Each wait is
	// between a tenth of its bound and the bound. 0 means DefaultRetryBase and DefaultRetryCap.
	Base, Cap time.Duration
	// Rand gives numbers in [0,1) for the jitter, from several
	// goroutines at once; nil means math/rand.
	Rand func() float64
	// OnRetry, if set, is called on the goroutine of the call, before each wait.
	OnRetry func(RetryEvent)
}

// RetryEvent tells of a failed try that will be repeated.
type RetryEvent struct {
	Op, Key string
	Attempt int           // tries made so far, from 1
	Wait    time.Duration // until the next one
	Err     error         // why the last one failed
}

const (
	// DefaultRetryBase is short, since most faults are one connection that broke.
	DefaultRetryBase = 200 * time.Millisecond
	// DefaultRetryCap is the longest wait before the next try, and so the longest time
	// that a store idles after it came back.
	DefaultRetryCap = 20 * time.Second
)

// DefaultRetry is Open's policy when Options name none: long enough for a restart of a
// store, short enough for a person at a terminal.
var DefaultRetry = RetryPolicy{MaxElapsed: 2 * time.Minute}

// errGaveUp marks, for messages, an error that outlasted the policy.
var errGaveUp = errors.New("gave up")

// Retry makes a store that repeats calls that failed with ErrUnavailable, with exponential
// back-off, jitter and no less than the wait that the server asked for, up to
// longestRetryAfter. Errors that a second look may mend are retried a few times (see looks),
// all other errors come back at once. The error of the last try is kept; when the context ends
// during a wait, both are. If any try of a put or a delete may have taken effect, the error is
// ErrUncertain as well, for every failure of the last try. A list goes on behind the last
// object that it gave. A store that retries already gets the new policy instead of the old.
func Retry(s Store, p RetryPolicy) Store {
	if r, ok := s.(*retrying); ok {
		s = r.Store
	}
	if p.Base <= 0 {
		p.Base = DefaultRetryBase
	}
	if p.Cap < p.Base {
		p.Cap = max(DefaultRetryCap, p.Base)
	}
	if p.Rand == nil {
		p.Rand = rand.Float64
	}
	return &retrying{s, p}
}

type retrying struct {
	Store
	policy RetryPolicy
}

// Put looks before it sends an object again that may be there: a store
// that answers late would else be sent the same object for ever.
func (r *retrying) Put(ctx context.Context, key string, body []byte) error {
	look := false
	return r.do(ctx, opPut, key, func(ctx context.Context) error {
		if look {
			if same, err := holdsSame(ctx, r.Store, key, body); err == nil && same {
				return nil
			}
		}
		err := r.Store.Put(ctx, key, body)
		var u *unavailableError
		look = mayHaveActed(err) && !(errors.As(err, &u) && u.resend)
		return err
	})
}

// PutNew resolves an unknown outcome by asking: ErrExists after a try that may
// have stored the object is the caller's own object when the bytes are the same.
func (r *retrying) PutNew(ctx context.Context, key string, body []byte) error {
	doubt := false
	return r.do(ctx, opPutNew, key, func(ctx context.Context) error {
		err := r.Store.PutNew(ctx, key, body)
		if doubt && errors.Is(err, ErrExists) {
			same, serr := holdsSame(ctx, r.Store, key, body)
			switch {
			case serr != nil:
				return serr
			case same:
				return nil
			}
		}
		doubt = doubt || mayHaveActed(err)
		return err
	})
}

func (r *retrying) ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	got := 0
	err = r.do(ctx, opRead, key, func(ctx context.Context) error {
		n, err := r.Store.ReadAt(ctx, key, p[got:], off+int64(got))
		got += n // the bytes before the break are not fetched twice
		return err
	})
	return got, err
}

func (r *retrying) Stat(ctx context.Context, key string) (in Info, err error) {
	err = r.do(ctx, opStat, key, func(ctx context.Context) error {
		in, err = r.Store.Stat(ctx, key)
		return err
	})
	return in, err
}

func (r *retrying) Delete(ctx context.Context, keys ...string) error {
	key := ""
	if len(keys) > 0 {
		key = keys[0]
	}
	return r.do(ctx, opDelete, key, func(ctx context.Context) error { return r.Store.Delete(ctx, keys...) })
}

func (r *retrying) Extend(ctx context.Context, key string, until time.Time) error {
	return r.do(ctx, opExtend, key, func(ctx context.Context) error { return r.Store.Extend(ctx, key, until) })
}

func (r *retrying) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return r.listAfter(ctx, prefix, "")
}

func (r *retrying) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last := after
		stopped := false
		// Each object that came is progress: the budget starts again for the objects after it.
		for {
			begun := last
			err := r.do(ctx, opList, prefix, func(ctx context.Context) error {
				for in, err := range listFrom(ctx, r.Store, prefix, last) {
					if err != nil {
						if last != begun && errors.Is(err, ErrUnavailable) {
							return &progress{err}
						}
						return err
					}
					// A row that was not asked for must not reach a
					// caller, who takes the prefix off its key.
					if !strings.HasPrefix(in.Key, prefix) || in.Key <= last {
						return odd("%s %s: the list has the key %q behind %q", opList, prefix, in.Key, last)
					}
					last = in.Key
					if !yield(in, nil) {
						stopped = true
						return nil
					}
				}
				return nil
			})
			var p *progress
			if errors.As(err, &p) && ended(ctx, opList, prefix) == nil && r.policy.MaxAttempts != 1 {
				continue
			}
			if err != nil && !stopped {
				yield(Info{}, err)
			}
			return
		}
	}
}

// progress is an error after which a list begins a new budget. It is not ErrUnavailable to do.
type progress struct{ err error }

func (p *progress) Error() string { return p.err.Error() }

// listFrom lists behind a key, also in a store that can only list from the beginning.
func listFrom(ctx context.Context, s Store, prefix, after string) iter.Seq2[Info, error] {
	if l, ok := s.(lister); ok {
		return l.listAfter(ctx, prefix, after)
	}
	return func(yield func(Info, error) bool) {
		for in, err := range s.List(ctx, prefix) {
			if err == nil && in.Key <= after {
				continue
			}
			if !yield(in, err) {
				return
			}
		}
	}
}

// attemptKey is the key of a context's value that holds the number of earlier tries of its call.
type attemptKey struct{}

// do calls f until it returns nil or an error that a repetition does
// not mend. It keeps in mind whether a try may have taken effect.
func (r *retrying) do(ctx context.Context, op, key string, f func(context.Context) error) error {
	if !changes(op) {
		return r.repeat(ctx, op, key, f)
	}
	doubt := false
	err := r.repeat(ctx, op, key, func(ctx context.Context) error {
		err := f(ctx)
		// Other bytes under the name are proof that no try of ours stored its own.
		doubt = (doubt || mayHaveActed(err)) && !errors.Is(err, ErrExists)
		return err
	})
	if doubt {
		return uncertain(err)
	}
	return err
}

func (r *retrying) repeat(ctx context.Context, op, key string, f func(context.Context) error) error {
	start := time.Now()
	var last error // that another try was made after
	for attempt := 1; ; attempt++ {
		try := ctx
		if attempt > 1 {
			try = context.WithValue(ctx, attemptKey{}, attempt-1)
		}
		err := f(try)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrUnavailable) && attempt >= looks(err):
			// the reason before it, not the end of time, tells a person the remedy
			if last != nil && ctx.Err() != nil {
				return fmt.Errorf("%w, after: %w", err, last)
			}
			return err
		}
		last = err
		if cerr := ended(ctx, op, key); cerr != nil {
			return fmt.Errorf("%w, after: %w", cerr, err)
		}
		if r.policy.MaxAttempts > 0 && attempt >= r.policy.MaxAttempts {
			if attempt == 1 {
				return err
			}
			return fmt.Errorf("%w (%w after %d tries)", err, errGaveUp, attempt)
		}
		wait := r.wait(attempt, err)
		if r.policy.MaxElapsed > 0 && time.Since(start)+wait > r.policy.MaxElapsed {
			return fmt.Errorf("%w (%w after %d tries in %v)", err, errGaveUp, attempt, time.Since(start).Round(time.Millisecond))
		}
		if r.policy.OnRetry != nil {
			r.policy.OnRetry(RetryEvent{op, key, attempt, wait, err})
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w, after: %w", ended(ctx, op, key), err)
		}
	}
}

// looks is the number of tries of a call whose error a second look may mend; 1 for all others.
func looks(err error) int {
	var again interface{ Tries() int }
	if errors.As(err, &again) {
		return again.Tries()
	}
	return 1
}

// longestRetryAfter bounds the wait that a server may ask for. MinIO asks for two minutes
// while it starts, which takes it a second, and an instance may be frozen meanwhile.
const longestRetryAfter = 15 * time.Second

// wait is the wait after that many tries: a random time between a tenth and the whole of a bound
// that doubles, so that the agents of many hosts do not come back together.
func (r *retrying) wait(attempt int, err error) time.Duration {
	d := r.policy.Cap
	if shift := attempt - 1; shift < 30 && r.policy.Base<<shift < d {
		d = r.policy.Base << shift
	}
	d = d/10 + time.Duration(r.policy.Rand()*0.9*float64(d))
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		d = max(d, min(asked.RetryAfter(), longestRetryAfter))
	}
	return d
}

// holdsSame reads an object and tells whether it has exactly these bytes.
func holdsSame(ctx context.Context, s Store, key string, body []byte) (bool, error) {
	in, err := s.Stat(ctx, key)
	if err != nil || in.Size != int64(len(body)) {
		return false, err
	}
	buf := make([]byte, min(compareBuffer, len(body)))
	for off := 0; off < len(body); off += len(buf) {
		part := buf[:min(len(buf), len(body)-off)]
		n, err := s.ReadAt(ctx, key, part, int64(off))
		if n < len(part) && err != io.EOF { //nolint:errorlint // the contract is io.EOF itself
			return false, err
		}
		if string(part[:n]) != string(body[off:off+len(part)]) {
			return false, nil
		}
	}
	return true, nil
}
