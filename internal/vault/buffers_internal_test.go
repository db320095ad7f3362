package vault

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func take(t *testing.T, u *buffers) []byte {
	t.Helper()
	p, err := u.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBuffers(t *testing.T) {
	b := NewBuffers(3)
	u := b.use(4096, false)
	one, two, three := take(t, u), take(t, u), take(t, u) // the third though nobody gives any back
	if &one[0] == &two[0] || &two[0] == &three[0] || b.made != 3 {
		t.Fatalf("%d buffers are given to three", b.made)
	}
	cause := errors.New("the test ends it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := u.take(ctx); !errors.Is(err, cause) {
		t.Errorf("beyond the limit: %v", err)
	}
	for _, p := range [][]byte{one, three, two} {
		u.give(p)
	}
	if got := take(t, u); &got[0] != &two[0] {
		t.Error("the one given back last is not taken first")
	}
	if take(t, u); b.made != 3 {
		t.Errorf("%d buffers, of at most 3", b.made)
	}
	u.end() // with two that it has
	u.end()
	if b.made != 0 || len(b.idle) != 0 || b.users != 0 {
		t.Errorf("nobody uses it, and it has %d, %d of them free, %d users", b.made, len(b.idle), b.users)
	}
}

func TestBuffersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBuffers(2)
		first, second := b.use(4096, false), b.use(8192, false)
		one, two := take(t, first), take(t, first)
		var got []byte
		var all sync.WaitGroup
		all.Go(func() { got = take(t, second) })
		time.Sleep(time.Minute)
		if got != nil {
			t.Error("more than the limit")
		}
		first.give(two)
		all.Wait()
		if len(got) != 8192 || b.made != 2 {
			t.Errorf("%d bytes, %d buffers", len(got), b.made)
		}
		// A Writer that waited and gave up keeps nothing.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := first.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		second.give(got)
		if third := take(t, first); len(third) != 4096 {
			t.Errorf("%d bytes", len(third))
		}
		second.end()
		first.give(one)
		if first.end(); b.made != 0 {
			t.Errorf("%d buffers are left", b.made)
		}
	})
}

// TestBuffersUnderManyWriters: as many writers as there are
// buffers, each of which fills one at a time, all come on.
func TestBuffersUnderManyWriters(t *testing.T) {
	b := NewBuffers(4)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			u := b.use(4096, i%2 == 0)
			defer u.end()
			var sent sync.WaitGroup
			for range 200 {
				p, err := u.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				p[0]++
				sent.Go(func() { u.give(p) })
			}
			sent.Wait()
		})
	}
	all.Wait()
	if b.made != 0 || len(b.line) != 0 {
		t.Errorf("%d buffers, %d wait", b.made, len(b.line))
	}
}

// TestBackgroundLeavesABuffer: writers in the background, whose packs never arrive, take
// all buffers but one, and a writer that is not in the background goes before them.
func TestBackgroundLeavesABuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBuffers(3)
		round, held := b.use(4096, true), b.use(4096, false)
		one := take(t, round)
		take(t, round)
		var order []string
		var all sync.WaitGroup
		all.Go(func() {
			take(t, round)
			order = append(order, "background")
		})
		time.Sleep(time.Minute)
		mine := take(t, held) // though one of the background is in line
		all.Go(func() {
			p := take(t, held)
			order = append(order, "held")
			time.Sleep(time.Minute)
			held.give(p)
		})
		time.Sleep(time.Minute)
		round.give(one)
		all.Wait()
		if order[0] != "held" {
			t.Errorf("served %v", order)
		}
		held.give(mine)
		held.end()
		round.end()
		if b.made != 0 || b.background != 0 || len(b.line) != 0 {
			t.Errorf("%d buffers, %d of the background, %d wait", b.made, b.background, len(b.line))
		}
	})
}
