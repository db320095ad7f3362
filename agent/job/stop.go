package job

import (
	"context"
	"sync"
	"time"
)

// A stop has one deadline. After the end of its context Run gives jobs at work Options.DrainTimeout
// to reach a stored backup, and then LetGoTime for all of them together to let their instances run
// again. Work that is not done by then stays in the journal, and the next Run does it.

// LetGoTime is how long Run waits, after Options.DrainTimeout, for jobs to
// let go of their instances: an engine answers within seconds, or hangs.
const LetGoTime = 15 * time.Second

// stopKey is the key by which the contexts of jobs have the context that ends with the stop.
type stopKey struct{}

// withStop returns a context for what jobs do, and the function that begins its end:
// DrainTimeout later running work ends with errDrained, and LetGoTime after that every act ends.
func withStop(ctx context.Context, drain time.Duration) (hard context.Context, begin, release func()) {
	over, end := context.WithCancel(context.WithoutCancel(ctx))
	hard, stop := context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), stopKey{}, over))
	var timers []*time.Timer
	begin = sync.OnceFunc(func() {
		timers = append(timers,
			time.AfterFunc(drain, func() { stop(errDrained) }),
			time.AfterFunc(drain+LetGoTime, end))
	})
	return hard, begin, func() {
		for _, t := range timers {
			t.Stop()
		}
		stop(nil)
		end()
	}
}

// acting returns the context of an act that the end of ctx must not
// cut off. It ends after limit, and with the stop.
func acting(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	act, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	over, ok := ctx.Value(stopKey{}).(context.Context)
	if !ok {
		return act, cancel
	}
	keep := context.AfterFunc(over, cancel)
	return act, func() { keep(); cancel() }
}

// stopOver tells whether the time of the stop is over.
func stopOver(ctx context.Context) bool {
	over, ok := ctx.Value(stopKey{}).(context.Context)
	return ok && over.Err() != nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
