package job

import (
	"context"
	"sync"
	"time"

	"holdfast/agent/model"
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

// fruitless counts how often in a row the job was put off, this time included, without
// anything new of it in the store; packs is how many packs the journal names. The progress
// tells the packs that this life has sent, and the journal the packs of earlier lives.
func (w *worker) fruitless(j *model.Job) (packs, n int, err error) {
	named, err := w.m.journal.Packs(j.ID)
	if err != nil {
		return 0, 0, err
	}
	stored := len(named) > j.PacksBefore
	if w.tried {
		p := w.progress.Load()
		stored = stored && p != nil && p.BytesSent > 0
	}
	w.tried = false
	w.progress.Store(nil)
	switch {
	case stored:
		return len(named), 0, nil
	case w.m.opts.RecoverOnly, j.ForStore: // nobody has tried, or the store kept it from storing
		return len(named), j.Fruitless, nil
	}
	return len(named), j.Fruitless + 1, nil
}

// stopOver tells whether the time of the stop is over.
func stopOver(ctx context.Context) bool {
	over, ok := ctx.Value(stopKey{}).(context.Context)
	return ok && over.Err() != nil
}
