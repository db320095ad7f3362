package backup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestHungRunsLendTheirPlaces: Runs that do not end when their contexts have keep no other Run from
// beginning, and the host is whole again when they end.
func TestHungRunsLendTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewPool(PoolOptions{Runs: 2, Budget: 1})
		cause := errors.New("took as long as the configuration allows")
		ctx, cancel := context.WithCancelCause(t.Context())
		begin := func(ctx context.Context) (end func()) {
			t.Helper()
			wait, giveUp := context.WithTimeout(t.Context(), time.Hour)
			defer giveUp()
			one, err := h.admit(wait, true)
			if err != nil {
				t.Fatalf("a Run can't begin: %v", err)
			}
			return one.watch(ctx)
		}
		var hung []func()
		for range 2 {
			hung = append(hung, begin(ctx))
		}
		soon, giveUp := context.WithTimeout(t.Context(), time.Minute)
		if _, err := h.admit(soon, true); err == nil {
			t.Error("a third began beside two that work")
		}
		giveUp()
		cancel(cause)
		for range 3 { // one after the other, and two at once
			first := begin(t.Context())
			begin(t.Context())()
			first()
		}
		hung[0]()
		begin(t.Context())()
		hung[1]()
		if n := len(h.runs) + len(h.again) + len(h.finishing); n != 0 {
			t.Errorf("%d places are taken in the end", n)
		}
		ended, cancel := context.WithCancelCause(t.Context())
		end := begin(ended)
		cancel(cause)
		end() // in time
		time.Sleep(time.Hour)
		if n := len(h.runs); n != 0 {
			t.Errorf("%d places are taken after one that ended in time", n)
		}
	})
}
