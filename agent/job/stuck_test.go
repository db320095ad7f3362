package job_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestStuckThawsLendTheirTurns: instances that can't be let go, as many as there are turns, keep no
// other backup from its end, nor do jobs that can't be put off. When they can be let go, they are.
func TestStuckThawsLendTheirTurns(t *testing.T) {
	for _, doing := range []string{"fail", "are put off"} {
		t.Run(doing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const turns = 4
				names := []string{"well-0", "well-1"}
				stuck := map[string]bool{}
				for i := range turns {
					names = append(names, fmt.Sprint("stuck-", i))
					stuck[fmt.Sprint("stuck-", i)] = true
				}
				w := newWorld(t, names...)
				healed := false
				w.fail = func(act, instance string) error {
					if act == "thaw" && !healed && stuck[instance] {
						return errors.New("out of order")
					}
					return nil
				}
				w.backup = func(ctx context.Context, r job.BackupRequest) error {
					if !stuck[r.Instance] {
						return nil
					}
					if doing == "fail" {
						return errors.New("the store refuses")
					}
					w.mu.Lock()
					w.silent = time.Hour
					w.mu.Unlock()
					<-ctx.Done()
					return context.Cause(ctx)
				}
				opts := job.Options{Jobs: turns, Held: turns, JobDeadline: 12 * time.Hour, FrozenDeadline: time.Hour, StorePatience: time.Minute}
				l := w.start(-1, opts)
				var ids []string
				for n := range stuck {
					ids = append(ids, mustAccept(t, l, n, n).Jobs[0].Job)
				}
				time.Sleep(10 * time.Minute)
				w.mu.Lock()
				w.silent = 0
				w.mu.Unlock()
				for round := range 3 {
					for i := range 2 {
						n := fmt.Sprint("well-", i)
						w.mu.Lock()
						w.instances[n].state = model.IsRunning
						w.mu.Unlock()
						began := time.Now()
						if j := l.final(mustAccept(t, l, fmt.Sprint(n, round), n).Jobs[0].Job); j.State != model.Done || time.Since(began) > time.Minute {
							t.Errorf("%s is %s after %s: %s", n, j.State, time.Since(began), j.Cause)
						}
					}
				}
				w.mu.Lock()
				healed = true
				stuck = map[string]bool{}
				w.mu.Unlock()
				for _, id := range ids {
					j := l.final(id)
					if want := map[string]model.State{"fail": model.Failed, "are put off": model.Done}[doing]; j.State != want {
						t.Errorf("the stuck job is %s: %s", j.State, j.Cause)
					}
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestLateHoldIsUndone: a freeze, or a stop, that failed takes effect after the job has looked
// whether the instance runs.
func TestLateHoldIsUndone(t *testing.T) {
	for _, c := range []struct {
		mode model.Mode
		act  string
		late time.Duration
		is   model.RuntimeState
	}{
		{model.ModeFrozen, "freeze", time.Millisecond, model.IsFrozen},
		{model.ModeFrozen, "freeze", 500 * time.Millisecond, model.IsFrozen},
		{model.ModePrecopy, "freeze", 2500 * time.Millisecond, model.IsFrozen},
		{model.ModeStop, "stop", 2500 * time.Millisecond, model.IsStopped},
		{model.ModeStop, "stop", 30500 * time.Millisecond, model.IsStopped},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			w.instances["phone"].mode = c.mode
			w.fail = func(act, instance string) error {
				if act != c.act {
					return nil
				}
				time.AfterFunc(c.late, func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.instances[instance].state = c.is
				})
				return errors.New("timed out")
			}
			l := w.start(-1, job.Options{})
			j := l.final(mustAccept(t, l, "r", "phone").Jobs[0].Job)
			if j.State != model.Failed || w.instances["phone"].state != model.IsRunning {
				t.Errorf("the job is %s, and the instance %s", j.State, w.instances["phone"].state)
			}
			l.stop()
			for _, f := range w.faults {
				t.Error(f)
			}
		})
	}
}
