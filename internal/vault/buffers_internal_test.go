package vault

import (
	"context"
	"errors"
	"testing"
)

func TestBuffers(t *testing.T) {
	b := newBuffers(3, 4096)
	defer b.free()
	take := func() *byte {
		t.Helper()
		p, err := b.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return &p[0]
	}
	seen := map[*byte]bool{take(): true, take(): true, take(): true} // the third though nobody gives any back
	if len(seen) != 3 {
		t.Fatalf("%d buffers are given to three", len(seen))
	}
	cause := errors.New("the test ends it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := b.take(ctx); !errors.Is(err, cause) {
		t.Errorf("beyond the limit: %v", err)
	}
	for _, p := range b.all {
		b.give(p)
	}
	last := &b.all[2][0]
	if got := take(); got != last {
		t.Error("the one given back last is not taken first")
	}
	if take(); len(b.all) != 3 {
		t.Errorf("%d buffers, of at most 3", len(b.all))
	}
}
