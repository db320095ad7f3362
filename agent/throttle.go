package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/model"
	"holdfast/internal/obs"
)

// clockCheck is how often the clock is looked at, at least: a timer
// does not notice that it was set, or that the host slept.
const clockCheck = time.Minute

// throttle keeps the limits of the host's store in force: the operator's limits, else
// the limits of the configuration for the time of day. It is safe for concurrent use.
type throttle struct {
	limiter *obs.Limiter
	log     *slog.Logger
	again   chan struct{} // tells run to look at the schedule again

	mu   sync.Mutex
	plan obs.Schedule // of the configuration
	set  api.ThrottleSetting
	now  obs.Limits // the limits of limiter
}

// newThrottle gives limiter, which has no limits, the present limits.
func newThrottle(limiter *obs.Limiter, b config.Bandwidth, log *slog.Logger) *throttle {
	t := &throttle{limiter: limiter, log: log, again: make(chan struct{}, 1), plan: b.Plan()}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.apply(time.Now())
	return t
}

// run changes the limits when it is time, until ctx ends.
func (t *throttle) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-t.again:
		}
		now := time.Now()
		t.mu.Lock()
		until := t.apply(now)
		t.mu.Unlock()
		timer.Reset(min(until.Sub(now), clockCheck))
	}
}

// apply has the limiter do what holds at a time, and returns until
// when that does. The lock is held.
func (t *throttle) apply(at time.Time) time.Time {
	limits, until := t.inForce().At(at)
	if limits != t.now {
		t.now = limits
		t.limiter.Set(limits)
		zone, _ := at.Zone()
		t.log.Info("limits of what the store is asked for changed; 0 is none", "up_bytes_per_second", limits.Up,
			"down_bytes_per_second", limits.Down, "requests_per_second", limits.Requests, "time_zone", zone)
	}
	return until
}

// inForce is the plan, with the operator's limits in the place of its own. The lock is held.
func (t *throttle) inForce() obs.Schedule {
	over := func(l obs.Limits) obs.Limits {
		if t.set.Up != nil {
			l.Up = *t.set.Up
		}
		if t.set.Down != nil {
			l.Down = *t.set.Down
		}
		if t.set.Requests != nil {
			l.Requests = float64(*t.set.Requests)
		}
		return l
	}
	s := obs.Schedule{Otherwise: over(t.plan.Otherwise)}
	for _, w := range t.plan.Windows {
		w.Limits = over(w.Limits)
		s.Windows = append(s.Windows, w)
	}
	return s
}

// operator puts s in the place of the operator's earlier limits.
func (t *throttle) operator(s api.ThrottleSetting) { t.change(func() { t.set = s }) }

// configured puts b in the place of the configuration's limits. The operator's limits stay.
func (t *throttle) configured(b config.Bandwidth) { t.change(func() { t.plan = b.Plan() }) }

func (t *throttle) change(what func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	what()
	t.apply(time.Now())
	select {
	case t.again <- struct{}{}:
	default:
	}
}

// state tells what holds, and why.
func (t *throttle) state() api.Throttle {
	load := t.limiter.State()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	from := api.FromConfiguration
	if _, ok := t.plan.Holding(now); ok {
		from = api.FromSchedule
	}
	limit := func(n int64, set *int64) api.Limit {
		if set != nil {
			return api.Limit{Limit: n, From: api.FromOperator}
		}
		return api.Limit{Limit: n, From: from}
	}
	s := api.Throttle{
		Up: limit(t.now.Up, t.set.Up), Down: limit(t.now.Down, t.set.Down), Requests: limit(int64(t.now.Requests), t.set.Requests),
		InFlight: load.InFlight, Waiting: load.Waiting, Level: load.Level,
	}
	if next, ok := t.inForce().Next(now); ok {
		s.NextChange = next.UTC()
	}
	return s
}

// SetBandwidth takes the limits of another configuration, for requests
// under way too. It may be called at any time between Open and Close.
func (a *Agent) SetBandwidth(b config.Bandwidth) { a.throttle.configured(b) }

// Throttle implements api.Throttler.
func (s *service) Throttle(context.Context, model.Caller) (api.Throttle, error) {
	return s.a.throttle.state(), nil
}

// SetThrottle implements api.Throttler.
func (s *service) SetThrottle(_ context.Context, _ model.Caller, set api.ThrottleSetting) (api.Throttle, error) {
	s.a.log.Info("an operator sets limits of what the store is asked for",
		"up", said(set.Up), "down", said(set.Down), "requests", said(set.Requests))
	s.a.throttle.operator(set)
	return s.a.throttle.state(), nil
}

// said is a value of a setting, for the log.
func said(n *int64) any {
	if n == nil {
		return "as configured"
	}
	return *n
}
