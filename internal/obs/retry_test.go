package obs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// middle is a jitter that is no jitter: waits are 55 % of the mean.
func middle() float64 { return 0.5 }

func TestRetryWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{Op: obstest.Put, Times: 6})
		var waits []time.Duration
		var attempts []int
		s := obs.Retry(f, obs.RetryPolicy{Base: 100 * time.Millisecond, Cap: time.Second, Rand: middle, OnRetry: func(e obs.RetryEvent) {
			waits, attempts = append(waits, e.Wait), append(attempts, e.Attempt)
			if e.Op != "put" || e.Key != "k" || !errors.Is(e.Err, obs.ErrUnavailable) {
				t.Errorf("event %+v", e)
			}
		}})
		start := time.Now()
		if err := s.Put(t.Context(), "k", []byte("x")); err != nil {
			t.Fatal(err)
		}
		var total time.Duration
		for _, w := range waits {
			total += w
		}
		if took := time.Since(start); took != total {
			t.Errorf("took %v, told of waits of %v", took, total)
		}
		ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
		if want := []time.Duration{ms(55), ms(110), ms(220), ms(440), ms(550), ms(550)}; !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
		if want := []int{1, 2, 3, 4, 5, 6}; !slices.Equal(attempts, want) {
			t.Errorf("attempts %v, want %v", attempts, want)
		}
	})
}

func TestRetryOnlyWhatMayMend(t *testing.T) {
	for _, e := range []error{obs.ErrNotFound, obs.ErrExists, obs.ErrNoBucket, obs.ErrAccess, obs.ErrNoSpace, obs.ErrUsage, errors.New("other")} {
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{Err: e})
		s := obs.Retry(f, obs.RetryPolicy{})
		if err := s.Put(t.Context(), "k", nil); !errors.Is(err, e) {
			t.Errorf("error %v, want %v", err, e)
		}
		if n := f.Count(obstest.Put, "k"); n != 1 {
			t.Errorf("%v was tried %d times", e, n)
		}
	}
}

func TestRetryGivesUp(t *testing.T) {
	why := errors.New("the cable")
	for name, p := range map[string]obs.RetryPolicy{
		"by time":     {MaxElapsed: 10 * time.Second},
		"by attempts": {MaxAttempts: 4},
		"at once":     {MaxAttempts: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := obstest.NewFaulty(obs.NewMemory())
			f.Inject(obstest.Fault{Err: fmt.Errorf("%w: %w", obs.ErrUnavailable, why)})
			s := obs.Retry(f, p)
			start := time.Now()
			_, err := s.Stat(t.Context(), "k")
			if !errors.Is(err, obs.ErrUnavailable) || !errors.Is(err, why) {
				t.Errorf("%s: error %v lost its class or its cause", name, err)
			}
			if p.MaxElapsed > 0 && time.Since(start) > p.MaxElapsed {
				t.Errorf("%s: took %v", name, time.Since(start))
			}
			if n := f.Count(obstest.Stat, ""); p.MaxAttempts > 0 && n != p.MaxAttempts {
				t.Errorf("%s: %d tries", name, n)
			}
		})
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{})
		s := obs.Retry(f, obs.RetryPolicy{})
		reason := errors.New("the job was cancelled")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Hour+time.Millisecond, func() { cancel(reason) })
		start := time.Now()
		err := s.Put(ctx, "k", nil)
		if time.Since(start) != time.Hour+time.Millisecond {
			t.Errorf("ended after %v", time.Since(start))
		}
		for _, want := range []error{context.Canceled, reason, obs.ErrUnavailable} {
			if !errors.Is(err, want) {
				t.Errorf("error %v lacks %v", err, want)
			}
		}
		for _, err := range s.List(ctx, "") {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("List: %v", err)
			}
		}
	})
}

type askedError struct{ after time.Duration }

func (e *askedError) Error() string             { return "come back later" }
func (e *askedError) Unwrap() error             { return obs.ErrUnavailable }
func (e *askedError) RetryAfter() time.Duration { return e.after }

// hangs is a store that fails at first and then keeps each put until its context ends.
type hangs struct {
	obs.Store
	calls int
}

func (h *hangs) Put(ctx context.Context, _ string, _ []byte) error {
	if h.calls++; h.calls == 1 {
		return fmt.Errorf("connection refused: %w", obs.ErrUnavailable)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// TestRetryKeepsTheReason: when time is up during a later try, the error also tells why
// the first try failed.
func TestRetryKeepsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := obs.Retry(&hangs{Store: obs.NewMemory()}, obs.RetryPolicy{}).Put(ctx, "k", nil)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, obs.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("error %v", err)
		}
	})
}

func TestRetryHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		// The store waits as long as the server asks, but no longer than an instance
		// can be kept frozen for a server that restarts.
		for asked, want := range map[time.Duration]time.Duration{12 * time.Second: 12 * time.Second, 90 * time.Second: 15 * time.Second} {
			f.Inject(obstest.Fault{Times: 1, Err: &askedError{asked}})
			start := time.Now()
			if err := obs.Retry(f, obs.RetryPolicy{}).Put(t.Context(), "k", nil); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("asked for %v, came back after %v, want %v", asked, took, want)
			}
		}
		// Longer than there is time: tell it now, not at the end of the budget.
		f.Inject(obstest.Fault{Op: obstest.Stat, Err: &askedError{90 * time.Second}})
		start := time.Now()
		if _, err := obs.Retry(f, obs.RetryPolicy{MaxElapsed: 10 * time.Second}).Stat(t.Context(), "k"); !errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for nothing", took)
		}
	})
}

func TestRetryUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fresh := range []bool{false, true} {
			f := obstest.NewFaulty(obs.NewMemory())
			f.Inject(obstest.Fault{Op: obstest.Put, Times: 2, After: true})
			s := obs.Retry(f, obs.RetryPolicy{})
			put := s.Put
			if fresh {
				put = s.PutNew
			}
			if err := put(t.Context(), "k", []byte("mine")); err != nil {
				t.Errorf("PutNew %v: %v", fresh, err)
			}
			// Somebody else's object is not taken for one's own.
			f.Inject(obstest.Fault{Op: obstest.Put, Times: 1})
			if err := s.PutNew(t.Context(), "k", []byte("other")); !errors.Is(err, obs.ErrExists) {
				t.Errorf("PutNew of other bytes: %v", err)
			}
			// Without a doubtful try before, the same bytes are somebody else's too.
			if err := s.PutNew(t.Context(), "k", []byte("mine")); !errors.Is(err, obs.ErrExists) {
				t.Errorf("PutNew of the same bytes: %v", err)
			}
		}
	})
}

// partial is a store whose reads break after a few bytes, and whose lists break after each object.
type partial struct {
	obs.Store
	reads []int64
}

func (p *partial) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	p.reads = append(p.reads, off)
	if len(b) > 3 {
		n, _ := p.Store.ReadAt(ctx, key, b[:3], off)
		return n, obs.ErrUnavailable
	}
	return p.Store.ReadAt(ctx, key, b, off)
}

func TestRetryReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &partial{Store: obs.NewMemory()}
		if err := p.Put(t.Context(), "k", []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 12)
		n, err := obs.Retry(p, obs.RetryPolicy{}).ReadAt(t.Context(), "k", b, 1)
		if n != 9 || err != io.EOF || !bytes.Equal(b[:n], []byte("123456789")) { //nolint:errorlint // io.EOF itself
			t.Errorf("read %q, %v", b[:n], err)
		}
		if want := []int64{1, 4, 7, 10}; !slices.Equal(p.reads, want) {
			t.Errorf("read from %v, want %v", p.reads, want)
		}
	})
}

func TestRetryListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		var want []string
		for i := range 7 {
			want = append(want, fmt.Sprintf("a/%d", i))
			if err := f.Put(t.Context(), want[i], nil); err != nil {
				t.Fatal(err)
			}
		}
		// Each list breaks after the first object of the store, also if the list gave it before.
		f.Inject(obstest.Fault{Op: obstest.List, Times: 3, After: true})
		s := obs.Retry(f, obs.RetryPolicy{})
		var got []string
		for in, err := range s.List(t.Context(), "a/") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, in.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("List: %q, want %q", got, want)
		}
		// It ends where the caller ends it, also after a break.
		f.Inject(obstest.Fault{Op: obstest.List, Times: 1, After: true})
		got = nil
		for in := range s.List(t.Context(), "a/") {
			if got = append(got, in.Key); len(got) == 2 {
				break
			}
		}
		if !slices.Equal(got, want[:2]) {
			t.Errorf("List: %q, want %q", got, want[:2])
		}
		f.Inject(obstest.Fault{Op: obstest.List})
		n := 0
		for _, err := range obs.Retry(f, obs.RetryPolicy{MaxElapsed: time.Second}).List(t.Context(), "a/") {
			if n++; !errors.Is(err, obs.ErrUnavailable) {
				t.Errorf("List of a store that is away: %v", err)
			}
		}
		if n != 1 {
			t.Errorf("it gave %d results, want one error", n)
		}
	})
}

// TestRetryTwice: a second policy takes the place of the first; budgets do not multiply.
func TestRetryTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{})
		s := obs.Retry(obs.Retry(f, obs.RetryPolicy{MaxAttempts: 3}), obs.RetryPolicy{MaxAttempts: 5})
		err := s.Delete(t.Context(), "k")
		if n := f.Count(obstest.Delete, "k"); n != 5 || !strings.Contains(err.Error(), "after 5 tries") {
			t.Errorf("%d tries, %v", n, err)
		}
	})
}

func TestFaultyHoldsAndDamages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := obstest.NewFaulty(obs.NewMemory())
		release, entered := make(chan struct{}), make(chan string, 1)
		f.Inject(obstest.Fault{Op: obstest.Put, Nth: 2, Times: 1, Block: release, Entered: entered})
		f.Inject(obstest.Fault{Op: obstest.Read, Corrupt: func(p []byte, _ int64) { p[0] ^= 1 }})
		if err := f.Put(t.Context(), "a", []byte("x")); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- f.Put(t.Context(), "b", []byte("x")) }()
		if key := <-entered; key != "b" {
			t.Errorf("held %s", key)
		}
		synctest.Wait()
		if _, err := f.Stat(t.Context(), "b"); !errors.Is(err, obs.ErrNotFound) {
			t.Errorf("a call that is held has done its work: %v", err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		got, err := obstest.ReadAll(t.Context(), f, "a")
		if err != nil || string(got) != "y" {
			t.Errorf("read %q, %v, want damage", got, err)
		}
		f.Heal()
		if got, _ := obstest.ReadAll(t.Context(), f, "a"); string(got) != "x" {
			t.Errorf("read %q after Heal", got)
		}
		if n := f.Count(obstest.Put, ""); n != 2 {
			t.Errorf("counted %d puts", n)
		}
	})
}
