package engine

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
)

// TestSilence: the store is silent from the beginning of the first try that failed since its last
// answer to that kind of request. An answer of any sort ends that, also a refusal; a try that was
// cancelled says nothing.
func TestSilence(t *testing.T) {
	away := fmt.Errorf("put: %w", obs.ErrUnavailable)
	type step struct {
		after time.Duration
		op    string
		took  time.Duration
		err   error
	}
	for name, c := range map[string]struct {
		steps  []step
		silent time.Duration // a minute after the last step
	}{
		"nothing was asked":         {nil, 0},
		"it answers":                {[]step{{0, "put", 0, nil}, {time.Minute, "read", 0, obs.ErrNotFound}, {0, "put new", 0, obs.ErrExists}}, 0},
		"one failed":                {[]step{{0, "put", 0, nil}, {5 * time.Minute, "put", 30 * time.Second, away}}, 90 * time.Second},
		"many failed":               {[]step{{0, "put", 0, away}, {time.Minute, "put", time.Second, away}, {time.Minute, "stat", time.Second, away}}, 3 * time.Minute},
		"a connection hung":         {[]step{{0, "put", 0, nil}, {time.Minute, "put", time.Minute, away}}, 2 * time.Minute},
		"answered meanwhile":        {[]step{{0, "put", 0, nil}, {time.Minute, "put", time.Hour, away}}, 2 * time.Minute},
		"it came back":              {[]step{{0, "put", 0, away}, {time.Minute, "put", 0, nil}}, 0},
		"reads alone are answered":  {[]step{{0, "put", 0, away}, {time.Minute, "read", 0, nil}, {0, "stat", 0, nil}, {0, "list", 0, nil}}, 2 * time.Minute},
		"writes alone are answered": {[]step{{0, "read", 0, away}, {time.Minute, "put new", 0, nil}, {0, "delete", 0, nil}}, 2 * time.Minute},
		"no host of that name":      {[]step{{0, "put", 0, obs.ErrNoHost}}, time.Minute},
		"an ingress's page":         {[]step{{0, "put", 0, obs.ErrOdd}}, time.Minute},
		"it refuses":                {[]step{{0, "put", 0, obs.ErrAccess}}, 0},
		"cancelled":                 {[]step{{0, "put", time.Hour, errors.New("cancelled on request")}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h StoreHealth
				for _, s := range c.steps {
					time.Sleep(s.after)
					h.Request(obs.Event{Op: s.op, Duration: s.took, Err: s.err})
				}
				time.Sleep(time.Minute)
				if got := h.Silent(); got != c.silent {
					t.Errorf("silent for %s, want %s", got, c.silent)
				}
			})
		})
	}
}
