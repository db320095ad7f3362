package job_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// untilDone waits for the end of a context, as a store or an engine that hangs does.
func untilDone(ctx context.Context, _ job.BackupRequest) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// TestStopHasOneDeadline: a stop takes DrainTimeout and LetGoTime, however
// many jobs have instances whose thaw hangs, and the next life lets those go.
func TestStopHasOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c"}
		w := newWorld(t, names...)
		w.backup = untilDone
		w.wait = func(ctx context.Context, _ string) { <-ctx.Done() }
		opts := job.Options{Jobs: 3, DrainTimeout: 5 * time.Second}
		l := w.start(-1, opts)
		task := mustAccept(t, l, "r", names...)
		for _, ref := range task.Jobs {
			l.until(ref.Job, model.Uploading)
		}
		clear(w.kept) // Over comes in the next life
		began := time.Now()
		l.stop()
		if took := time.Since(began); took > opts.DrainTimeout+job.LetGoTime+time.Second {
			t.Errorf("the stop took %s", took)
		}
		w.backup, w.wait = nil, nil
		l = w.start(-1, opts)
		for _, ref := range task.Jobs {
			if j := l.final(ref.Job); j.State != model.Done {
				t.Errorf("%s: %s (%s)", j.Instance, j.State, j.Cause)
			}
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestRestartsWithProgress: a backup that stores something new between any two restarts comes
// to its end, however many restarts there are; a backup that never does fails after some.
func TestRestartsWithProgress(t *testing.T) {
	for _, progress := range []bool{true, false} {
		for _, orderly := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a")
				sent := 0
				w.backup = func(ctx context.Context, r job.BackupRequest) error {
					if sent++; sent <= 2 && progress { // the second makes the engine say so
						return nil
					}
					return untilDone(ctx, r)
				}
				opts := job.Options{DrainTimeout: time.Second}
				l := w.start(-1, opts)
				id := mustAccept(t, l, "r", "a").Jobs[0].Job
				restarts := 0
				for ; restarts < 12; restarts++ {
					for range 1000 {
						if j, err := l.j.Job(id); err == nil && (j.State == model.Uploading || j.State.Final()) {
							break
						}
						time.Sleep(time.Second)
					}
					time.Sleep(time.Minute)
					if j, err := l.j.Job(id); err != nil || j.State.Final() {
						break
					}
					if !orderly {
						l.kill()
						// somebody lets it run meanwhile, so the job can't go on where it was
						w.mu.Lock()
						w.instances["a"].state = model.IsRunning
						w.mu.Unlock()
					}
					l.stop()
					sent = 0
					l = w.start(-1, opts)
				}
				w.mu.Lock()
				w.backup = nil
				w.mu.Unlock()
				l.stop()
				l = w.start(-1, opts)
				j := l.final(id)
				if progress && (restarts < 12 || j.State != model.Done) {
					t.Errorf("orderly %v, with progress: after %d restarts it is %s (%s)", orderly, restarts, j.State, j.Cause)
				}
				if orderly && !progress && (restarts != 5 || j.State != model.Failed) {
					t.Errorf("orderly %v, without progress: after %d restarts it is %s (%s)", orderly, restarts, j.State, j.Cause)
				}
				l.stop()
			})
		}
	}
}

// TestRecoverOnly: a life that only recovers lets instances go that are
// held for work under way, begins nothing, sees jobs with a stored backup
// to their end, and ends by itself. The next life goes on with what waits.
func TestRecoverOnly(t *testing.T) {
	for _, crash := range []model.State{model.Frozen, model.Uploading, model.Failing, model.Suspending, model.Reported, model.Resuming, model.Releasing} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a", "b", "c")
			w.instances["a"].mode = model.ModeFrozen
			w.backup = func(ctx context.Context, _ job.BackupRequest) error {
				select {
				case <-time.After(time.Minute):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			w.answer = func(e model.Event) (string, error) {
				if e.Type == model.EventCompleted && (e.Instance == "b" || crash == model.Resuming) || crash == model.Reported {
					return "", errors.New("no answer")
				}
				return "", nil
			}
			opts := job.Options{Jobs: 1}
			l := w.start(-1, opts)
			held := mustAccept(t, l, "b", "b").Jobs[0].Job
			l.until(held, model.Reported)
			l.dieAt("job.write-" + string(crash) + ".after")
			both := mustAccept(t, l, "a", "a", "c").Jobs // at once: the job of a may be the end of the life
			id, waits := both[0].Job, both[1].Job
			switch crash {
			case model.Failing:
				l.until(id, model.Uploading)
				_ = l.m.Cancel(id)
			case model.Resuming:
				for range 1000 { // it may be stored or reported by then
					if l.m.Resume("a") == nil || l.isDead() {
						break
					}
					time.Sleep(time.Second)
				}
			case model.Suspending:
				l.until(id, model.Uploading)
				l.cancel()
			}
			for range 1000 {
				if l.isDead() {
					break
				}
				time.Sleep(time.Second)
			}
			if !l.isDead() {
				t.Fatalf("it did not die at %s", crash)
			}
			l.stop()
			w.answer = nil
			only := opts
			only.RecoverOnly = true
			l = w.start(-1, only)
			if _, err := l.accept("new", "c"); !errors.Is(err, job.ErrDraining) {
				t.Errorf("%s: a command is answered with %v", crash, err)
			}
			for i := 0; ; i++ {
				active, err := l.j.Active()
				if err != nil {
					t.Fatal(err)
				}
				unfinished := 0
				for _, j := range active {
					if j.State != model.Accepted {
						unfinished++
					}
				}
				if unfinished == 0 || i == 1000 {
					break
				}
				time.Sleep(time.Second)
			}
			synctest.Wait()
			w.mu.Lock()
			for n, p := range w.instances {
				if p.state == model.IsFrozen {
					t.Errorf("%s: %s is left frozen", crash, n)
				}
			}
			w.mu.Unlock()
			if j, err := l.j.Job(waits); err != nil || j.State != model.Accepted {
				t.Errorf("%s: the job that waits: %+v, %v", crash, j, err)
			}
			if j, err := l.j.Job(held); err != nil || j.State != model.Done {
				t.Errorf("%s: the job with a stored backup: %+v, %v", crash, j, err)
			}
			l.stop()
			l = w.start(-1, opts)
			l.final(waits)
			if j := l.final(id); j.State != model.Done && crash != model.Failing {
				t.Errorf("%s: %s (%s)", crash, j.State, j.Cause)
			}
			l.stop()
			for _, f := range w.faults {
				t.Error(f)
			}
		})
	}
}

// TestResumeWithoutKey: an instance whose receipt can't be signed
// runs again when that is asked for.
func TestResumeWithoutKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.fail = func(act, _ string) error {
			if act == "sign" {
				return errors.New("no key")
			}
			return nil
		}
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "a").Jobs[0].Job
		l.until(id, model.Stored)
		time.Sleep(time.Hour)
		if err := l.m.Resume("a"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Done || w.instances["a"].state != model.IsRunning {
			t.Errorf("%s (%s), the instance is %s", j.State, j.Cause, w.instances["a"].state)
		}
		l.stop()
	})
}
