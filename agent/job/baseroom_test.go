package job_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestBaseGoesBeforeTheDiskIsFull: a base that stands idle goes while there
// is space left, however fast the instance uses it up, and is told of. One
// on a disk on which nothing happens, or that shrinks slowly, stays.
func TestBaseGoesBeforeTheDiskIsFull(t *testing.T) {
	const total = 100 << 30
	for name, c := range map[string]struct {
		free    int64 // at the begin
		rate    int64 // bytes a second
		after   time.Duration
		stays   bool
		atLeast int64 // that has to be free when the first base goes
	}{
		"nothing happens":      {free: 33 << 30, after: time.Hour, stays: true},
		"slowly":               {free: 33 << 30, rate: 1 << 20, after: time.Hour, stays: true},
		"slowly, to the limit": {free: 12 << 30, rate: 10 << 20, after: time.Hour, atLeast: 9 << 30},
		"within seconds":       {free: 33 << 30, rate: 3 << 30, after: 20 * time.Second, atLeast: 15 << 30},
		"much is free":         {free: 90 << 30, rate: 1 << 30, after: 30 * time.Second, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].mode = model.ModeLive
				var begin atomic.Int64
				left := func() int64 {
					if b := begin.Load(); b != 0 {
						return max(0, c.free-int64(float64(c.rate)*time.Since(time.Unix(0, b)).Seconds()))
					}
					return c.free
				}
				w.room = func(context.Context, model.Base) (int64, int64, error) { return left(), total, nil }
				l := w.start(-1, job.Options{Bases: job.Bases{Keep: true, MinFree: 0.1}})
				task, err := l.accept("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				l.final(task.Jobs[0].Job)
				time.Sleep(5 * time.Second)
				begin.Store(time.Now().UnixNano())
				var at int64 = -1
				for end := time.Now().Add(c.after); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					bases, err := l.j.Bases("phone")
					if err != nil {
						t.Fatal(err)
					}
					if len(bases) < 2 && at < 0 {
						at = left()
					}
				}
				if stays := at < 0; stays != c.stays || !stays && at < c.atLeast {
					t.Errorf("a base stays: %v; the first went with %d of %d bytes free", stays, at, int64(total))
				}
				if told := strings.Join(w.lacked, "; "); !c.stays && !strings.Contains(told, "keep the base snapshot") {
					t.Errorf("told: %q", told)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
