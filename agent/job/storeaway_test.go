package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestNotHeldWhileTheStoreIsAway: an instance runs while the store does not answer, also where its
// job has waited for the turn to hold meanwhile, and its job keeps no turn. An error that waiting
// does not mend fails the job before the hold.
func TestNotHeldWhileTheStoreIsAway(t *testing.T) {
	for _, mode := range []model.Mode{model.ModeFrozen, model.ModePrecopy, model.ModeStop} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "first", "second", "third")
				for _, p := range w.instances {
					p.mode, p.pinned = mode, true
				}
				w.backup = func(ctx context.Context, r job.BackupRequest) error {
					if r.Instance != "first" {
						return nil
					}
					select {
					case <-time.After(time.Minute):
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
				l := w.start(-1, job.Options{Jobs: 3, Held: 1, Precopy: job.Precopy{Rounds: 2}})
				first := mustAccept(t, l, "r1", "first").Jobs[0].Job
				l.until(first, model.Uploading)
				second := mustAccept(t, l, "r2", "second").Jobs[0].Job
				time.Sleep(time.Second) // it waits for the turn
				w.mu.Lock()
				w.away = fmt.Errorf("no route to host: %w", job.ErrStoreAway)
				w.mu.Unlock()
				l.until(first, model.Done)
				time.Sleep(2 * time.Hour)
				w.mu.Lock()
				if got := w.instances["second"].state; got != model.IsRunning || w.asked > 300 {
					t.Errorf("the instance is %s while the store is away, of which was asked %d times", got, w.asked)
				}
				w.away = nil
				w.mu.Unlock()
				if j := l.final(second); j.State != model.Done || j.FreezeSeconds(l.j.Up()) > 60 {
					t.Errorf("the job is %s (%s) after a hold of %.0f s", j.State, j.Cause, j.FreezeSeconds(l.j.Up()))
				}
				w.mu.Lock()
				w.away = errors.New("the bucket is not there")
				w.mu.Unlock()
				j := l.final(mustAccept(t, l, "r3", "third").Jobs[0].Job)
				if j.State != model.Failed || !j.Entered[model.Freezing].IsZero() || !strings.Contains(j.Cause, "the bucket is not there") {
					t.Errorf("the job is %s (%s), frozen at %s", j.State, j.Cause, j.Entered[model.Freezing])
				}
				if told := strings.Count(strings.Join(w.lacked, "\n"), "no route to host"); told != 1 {
					t.Errorf("the wait was told %d times", told)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestLetGoWhileTheStoreIsSilent: an instance that stands still for an upload runs again when the
// store is silent for too long, and is held again when the store answers, however often that
// happens. It is not so where something would be lost by it: see the table.
func TestLetGoWhileTheStoreIsSilent(t *testing.T) {
	for name, c := range map[string]struct {
		mode     model.Mode
		found    model.RuntimeState
		nobody   bool
		patience time.Duration
		goes     bool
	}{
		"frozen":                       {model.ModeFrozen, model.IsRunning, false, 2 * time.Minute, true},
		"frozen after rounds":          {model.ModePrecopy, model.IsRunning, false, 2 * time.Minute, true},
		"a stop would be repeated":     {model.ModeStop, model.IsRunning, false, 2 * time.Minute, false},
		"nothing is held":              {model.ModeLive, model.IsRunning, false, 2 * time.Minute, false},
		"nobody waits for it":          {model.ModeFrozen, model.IsStopped, false, 2 * time.Minute, false},
		"nothing holds it":             {model.ModeFrozen, model.IsUnknown, true, 2 * time.Minute, false},
		"the configuration says never": {model.ModeFrozen, model.IsRunning, false, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				p := w.instances["phone"]
				p.mode, p.state, p.nobody = c.mode, c.found, c.nobody
				hang := true
				w.backup = func(ctx context.Context, r job.BackupRequest) error {
					w.mu.Lock()
					h := hang
					w.mu.Unlock()
					if !h || r.Precopy {
						return nil
					}
					began := time.Now()
					for ctx.Err() == nil {
						time.Sleep(time.Second)
						w.mu.Lock()
						w.silent = time.Since(began)
						h := hang
						w.mu.Unlock()
						if !h {
							return nil
						}
					}
					w.mu.Lock()
					w.silent = 0 // no request is made any more
					w.mu.Unlock()
					return context.Cause(ctx)
				}
				l := w.start(-1, job.Options{StorePatience: c.patience, Precopy: job.Precopy{Rounds: 1}})
				id := mustAccept(t, l, "r", "phone").Jobs[0].Job
				time.Sleep(2 * time.Hour)
				j, err := l.j.Job(id)
				if err != nil {
					t.Fatal(err)
				}
				if went := j.StoreWaits > 0; went != c.goes {
					t.Errorf("it was let go %d times", j.StoreWaits)
				}
				if c.goes && j.StoreWaits <= 5 { // more than a job may be put off for other reasons
					t.Errorf("it was let go %d times in two hours", j.StoreWaits)
				}
				w.mu.Lock()
				hang, w.silent = false, 0
				w.mu.Unlock()
				if j := l.final(id); j.State != model.Done {
					t.Errorf("the job is %s: %s", j.State, j.Cause)
				}
				l.stop()
				if len(w.snaps) > 0 {
					t.Errorf("left: %v", w.snaps)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
