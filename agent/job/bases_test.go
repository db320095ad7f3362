package job_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestBaseFollowsItsBackups: a backup that does not end in release leaves one base for each
// volume, which the next gets, and which goes when that one leaves its own; a release leaves none.
func TestBaseFollowsItsBackups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].mode = model.ModeLive
		l := w.start(-1, job.Options{Bases: job.Bases{Keep: true}, Precopy: job.Precopy{Rounds: 3}})
		defer l.stop()
		run := func(id string) {
			t.Helper()
			task, err := l.accept(id, "phone")
			if err != nil {
				t.Fatal(err)
			}
			if j := l.final(task.Jobs[0].Job); j.State != model.Done {
				t.Fatalf("%s: %s", j.State, j.Cause)
			}
			time.Sleep(time.Second)
		}
		bases := func() []model.Base {
			t.Helper()
			got, err := l.j.Bases("phone")
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(w.snaps) {
				t.Errorf("bases %v, snapshots %v", got, w.snaps)
			}
			return got
		}
		run("first")
		first := bases()
		if len(first) != 2 || w.based != 0 || first[0].Backup != "b1" {
			t.Fatalf("after the first backup: %+v, %d times used", first, w.based)
		}
		run("second")
		if second := bases(); len(second) != 2 || w.based != 2 || slices.Contains(second, first[0]) {
			t.Fatalf("after the second backup: %+v, %d times used", second, w.based)
		}
		w.instances["phone"].mode = model.ModePrecopy
		run("third") // three rounds and the end, each with a base
		if third := bases(); len(third) != 0 || w.based != 2+4*2 || w.instances["phone"].state != model.IsStopped {
			t.Fatalf("after the release: %+v, %d times used", third, w.based)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestBasesAreDropped by age, for want of space, without configuration, and with their instance.
func TestBasesAreDropped(t *testing.T) {
	var free atomic.Int64 // read by the look that the manager takes every hour
	for name, c := range map[string]struct {
		opts  job.Bases
		after func(w *world)
		left  int
	}{
		"nothing":        {opts: job.Bases{Keep: true, MaxAge: 72 * time.Hour, MinFree: 0.1}, after: func(*world) { time.Sleep(50 * time.Hour) }, left: 2},
		"age":            {opts: job.Bases{Keep: true, MaxAge: 72 * time.Hour}, after: func(*world) { time.Sleep(74 * time.Hour) }},
		"space":          {opts: job.Bases{Keep: true, MinFree: 0.1}, after: func(*world) { free.Store(9); time.Sleep(61 * time.Minute) }},
		"space, no look": {opts: job.Bases{Keep: true, MinFree: 0.1}, after: func(*world) { free.Store(-1); time.Sleep(61 * time.Minute) }},
		"instance": {opts: job.Bases{Keep: true}, after: func(w *world) {
			w.mu.Lock()
			delete(w.instances, "phone")
			w.mu.Unlock()
			time.Sleep(61 * time.Minute)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free.Store(50)
				w := newWorld(t, "phone")
				w.room = func(context.Context, model.Base) (int64, int64, error) {
					if free.Load() < 0 {
						return 0, 0, errors.New("device is gone")
					}
					return free.Load(), 100, nil
				}
				w.instances["phone"].mode = model.ModeLive
				l := w.start(-1, job.Options{Bases: c.opts})
				task, err := l.accept("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				l.final(task.Jobs[0].Job)
				time.Sleep(time.Second)
				synctest.Wait()
				if len(w.snaps) != 2 {
					t.Fatalf("the backup left %v", w.snaps)
				}
				c.after(w)
				synctest.Wait() // for the look to be over
				if bases, err := l.j.Bases(""); err != nil || len(bases) != c.left || len(w.snaps) != c.left {
					t.Errorf("left: %v, %v, %v", bases, w.snaps, err)
				}
				l.stop()
				if c.left > 0 {
					l = w.start(-1, job.Options{}) // told to keep none
					l.stop()
					if len(w.snaps) > 0 {
						t.Errorf("left without configuration: %v", w.snaps)
					}
				}
			})
		})
	}
}
