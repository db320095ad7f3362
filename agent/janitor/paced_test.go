package janitor_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/janitor"
	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// TestPacedIsAStore: a store that keeps to a pace keeps the contract of stores.
func TestPacedIsAStore(t *testing.T) {
	obstest.Run(t, func(t *testing.T) obs.Store { return janitor.Paced(t.Context(), obs.NewMemory(), janitor.Pace{}) })
}

// TestPace: requests keep to the pace, and each page of a list is a request.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := obs.NewMemory()
		st := janitor.Paced(t.Context(), m, janitor.Pace{Requests: 10})
		began := time.Now()
		for range 21 {
			if _, err := st.Stat(t.Context(), "a"); err == nil {
				t.Error("an object that was never put")
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("21 requests at 10 a second took %v", took)
		}
		for i := range 2500 {
			if err := m.Put(t.Context(), fmt.Sprintf("list/%04d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		began = time.Now()
		n := 0
		for _, err := range st.List(t.Context(), "list/") {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); n != 2500 || took < 200*time.Millisecond || took > 300*time.Millisecond {
			t.Errorf("a list of %d objects took %v", n, took)
		}
	})
}

// TestPressed: while the host is pressed bulk requests wait, the few others do not, and the end of
// the run ends all waits.
func TestPressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pressed atomic.Bool
		pressed.Store(true)
		run, end := context.WithCancel(t.Context())
		defer end()
		st := janitor.Paced(run, obs.NewMemory(), janitor.Pace{Pressed: pressed.Load})
		began := time.Now()
		if err := st.Put(t.Context(), "v/condemned/a", nil); err != nil || time.Since(began) != 0 {
			t.Errorf("a small object waited for %v: %v", time.Since(began), err)
		}
		time.AfterFunc(time.Minute, func() { pressed.Store(false) })
		if err := st.Delete(t.Context(), "v/packs/aa/aa"); err != nil || time.Since(began) < time.Minute {
			t.Errorf("a pack was deleted after %v: %v", time.Since(began), err)
		}
		pressed.Store(true)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := st.Delete(ctx, "v/packs/aa/aa"); err == nil {
			t.Error("a delete went out after the end of its context")
		}
		time.AfterFunc(time.Minute, end)
		began = time.Now()
		if err := st.Delete(t.Context(), "v/packs/aa/aa"); err != nil || time.Since(began) != time.Minute {
			t.Errorf("after the end of the run a delete waited for %v: %v", time.Since(began), err)
		}
	})
}
