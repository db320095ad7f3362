package service

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// TestThrottleFollowsTheClock: limits change at the times of the schedule,
// not a second earlier or later, also when other limits are set meanwhile.
func TestThrottleFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is midnight of a Saturday
		zone := time.Local
		time.Local = time.UTC
		defer func() { time.Local = zone }()
		const mib = 1 << 20
		little, five := config.Size(mib), 5
		day := config.Window{From: "08:00", To: "20:00", Days: []string{"sat"}, Up: &little, Requests: &five}
		limiter := obs.NewLimiter(obs.Limits{})
		th := NewThrottle(limiter, config.Bandwidth{Up: 10 * mib, Schedule: []config.Window{day}}, slog.New(slog.DiscardHandler))
		expect := func(what string, want obs.Limits, up, requests string) {
			t.Helper()
			synctest.Wait()
			if got := limiter.State().Limits; got != want {
				t.Errorf("%s, %s: %+v, want %+v", what, time.Now().Format(time.TimeOnly), got, want)
			}
			s := th.state()
			if s.Up != (api.Limit{Limit: want.Up, From: up}) || s.Requests != (api.Limit{Limit: int64(want.Requests), From: requests}) || s.Down.Limit != 0 {
				t.Errorf("%s: told %+v", what, s)
			}
		}
		next := func(want string) {
			t.Helper()
			got := ""
			if at := th.state().NextChange; !at.IsZero() {
				got = at.Format(time.DateTime)
			}
			if got != want {
				t.Errorf("the next change is at %q, want %q", got, want)
			}
		}
		outside := obs.Limits{Up: 10 * mib}
		expect("before anything runs", outside, api.FromConfiguration, api.FromConfiguration)

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			th.Run(ctx)
		}()
		next("2000-01-01 08:00:00")
		time.Sleep(8*time.Hour - time.Nanosecond)
		expect("the last moment of the night", outside, api.FromConfiguration, api.FromConfiguration)
		time.Sleep(time.Nanosecond)
		expect("day", obs.Limits{Up: mib, Requests: 5}, api.FromSchedule, api.FromSchedule)
		next("2000-01-01 20:00:00")

		none := int64(0)
		th.operator(api.ThrottleSetting{Up: &none})
		expect("set", obs.Limits{Requests: 5}, api.FromOperator, api.FromSchedule)
		next("2000-01-01 20:00:00")
		time.Sleep(12 * time.Hour)
		expect("what was set stays", obs.Limits{}, api.FromOperator, api.FromConfiguration)
		next("2000-01-08 08:00:00")
		th.operator(api.ThrottleSetting{})
		expect("taken back", outside, api.FromConfiguration, api.FromConfiguration)

		// Another configuration, with a window that begins before the
		// clock would be looked at by itself.
		time.Sleep(time.Hour - 30*time.Second)
		th.operator(api.ThrottleSetting{Requests: ptr(int64(7))})
		th.Configure(config.Bandwidth{Up: 3 * mib, Schedule: []config.Window{{From: "21:00", To: "21:01", Up: &little}}})
		expect("another configuration", obs.Limits{Up: 3 * mib, Requests: 7}, api.FromConfiguration, api.FromOperator)
		time.Sleep(30*time.Second - time.Nanosecond)
		expect("before its window", obs.Limits{Up: 3 * mib, Requests: 7}, api.FromConfiguration, api.FromOperator)
		time.Sleep(time.Nanosecond)
		expect("its window", obs.Limits{Up: mib, Requests: 7}, api.FromSchedule, api.FromOperator)
		time.Sleep(time.Minute)
		expect("after it", obs.Limits{Up: 3 * mib, Requests: 7}, api.FromConfiguration, api.FromOperator)
		th.Configure(config.Bandwidth{})
		th.operator(api.ThrottleSetting{})
		expect("nothing at all", obs.Limits{}, api.FromConfiguration, api.FromConfiguration)
		next("")
		cancel()
		<-ended
	})
}

func ptr[T any](v T) *T { return &v }
