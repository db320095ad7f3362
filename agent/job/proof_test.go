package job_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// took tells whether the control plane got an event of the type.
func (w *world) took(kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Type == kind {
			return true
		}
	}
	return false
}

// waiting runs do on a world in which phone waits, acknowledged, for the control plane's release.
func waiting(t *testing.T, opts job.Options, do func(w *world, l *life, id string)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].policy = model.ReleaseByControlPlane
		l := w.start(-1, opts)
		task, err := l.accept("request-1", "phone")
		if err != nil {
			t.Fatal(err)
		}
		id := task.Jobs[0].Job
		l.until(id, model.Acknowledged)
		do(w, l, id)
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

func (l *life) release(t *testing.T) {
	t.Helper()
	if err := l.m.Release("phone"); err != nil {
		t.Error(err)
	}
}

// TestGoneIsHeld: a release of a backup that the store lost holds
// the job and says so; again it looks once more, until all is back.
func TestGoneIsHeld(t *testing.T) {
	waiting(t, job.Options{}, func(w *world, l *life, id string) {
		had := w.backups["phone"]
		w.backups["phone"] = nil
		for range 2 {
			l.release(t)
			l.until(id, model.Held)
			time.Sleep(time.Minute)
			j, err := l.j.Job(id)
			if err != nil || j.State != model.Held || j.Gone == "" || !strings.Contains(j.Cause, "resume lets it run") || j.ReleaseAsked || w.instances["phone"].downs > 0 {
				t.Fatalf("%+v, %v", j, err)
			}
		}
		if !w.took(model.EventGone) {
			t.Error("the control plane was not told")
		}
		w.mu.Lock()
		w.backups["phone"] = had
		w.mu.Unlock()
		l.release(t)
		if j := l.final(id); j.State != model.Done || j.Gone != "" || w.instances["phone"].downs != 1 {
			t.Errorf("after all is back: %+v", j)
		}
		l.stop()
	})
}

// TestGoneIsResumed: a resume lets the instance run, and the job
// has failed, since there is no backup.
func TestGoneIsResumed(t *testing.T) {
	waiting(t, job.Options{}, func(w *world, l *life, id string) {
		w.backups["phone"] = nil
		l.release(t)
		l.until(id, model.Held)
		if err := l.m.Resume("phone"); err != nil {
			t.Error(err)
		}
		if j := l.final(id); j.State != model.Failed || !strings.Contains(j.Cause, job.ErrBackupGone.Error()) || w.instances["phone"].state != model.IsRunning {
			t.Errorf("%+v", j)
		}
		l.stop()
	})
}

// TestStoreAwayAtPowerDown: the job waits for a store that does not answer,
// in this life and the next; a resume interrupts a look that hangs.
func TestStoreAwayAtPowerDown(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		waiting(t, job.Options{}, func(w *world, l *life, id string) {
			away := func(ctx context.Context, _ *model.Job) error {
				if hangs {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return errors.New("no answer")
			}
			w.mu.Lock()
			w.present = away
			w.mu.Unlock()
			l.release(t)
			for range 2 {
				time.Sleep(time.Hour)
				if j, err := l.j.Job(id); err != nil || j.State != model.Acknowledged || w.instances["phone"].state != model.IsFrozen {
					t.Fatalf("%+v, %v", j, err)
				}
				l.stop()
				l = w.start(-1, job.Options{})
			}
			time.Sleep(time.Minute)
			asked := time.Now()
			if err := l.m.Resume("phone"); err != nil {
				t.Error(err)
			}
			if j := l.final(id); j.State != model.Done || w.instances["phone"].state != model.IsRunning || time.Since(asked) > 5*time.Second {
				t.Errorf("after %v: %+v", time.Since(asked), j)
			}
			l.stop()
		})
	}
}

// TestDeadWhileReleasing: a process that dies before the power-down
// has no look of its own to rest on, so the next one looks again.
func TestDeadWhileReleasing(t *testing.T) {
	waiting(t, job.Options{ProofAge: time.Hour}, func(w *world, l *life, id string) {
		l.dieAt(crashpoint.PowerDown + crashpoint.Before)
		l.release(t)
		<-l.dead
		l.stop()
		w.mu.Lock()
		w.backups["phone"] = nil
		w.mu.Unlock()
		l = w.start(-1, job.Options{ProofAge: time.Hour})
		l.until(id, model.Held)
		if w.instances["phone"].state != model.IsFrozen {
			t.Errorf("the instance is %s", w.instances["phone"].state)
		}
		l.stop()
	})
}

// TestLooksOnce: a verification that is recent needs no other look.
func TestLooksOnce(t *testing.T) {
	waiting(t, job.Options{ProofAge: time.Hour}, func(w *world, l *life, id string) {
		looks := 0
		w.mu.Lock()
		w.present = func(context.Context, *model.Job) error { looks++; return nil }
		w.mu.Unlock()
		l.release(t)
		if j := l.final(id); j.State != model.Done || looks > 0 {
			t.Errorf("%d looks, %+v", looks, j)
		}
		l.stop()
	})
}

// TestLookForCopiesBeforeAPowerDown: a power-down for which a verification counts that is recent
// comes after a look for copies of the host. A host that is a copy powers nothing down.
func TestLookForCopiesBeforeAPowerDown(t *testing.T) {
	for _, copied := range []bool{false, true} {
		waiting(t, job.Options{ProofAge: time.Hour}, func(w *world, l *life, id string) {
			if copied {
				w.mu.Lock()
				w.fail = func(act, _ string) error {
					if act == "alone" {
						return errors.New("the state folder may be a copy")
					}
					return nil
				}
				w.mu.Unlock()
			}
			l.release(t)
			time.Sleep(time.Minute)
			j, err := l.j.Job(id)
			if err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			looks, down := w.alone, w.instances["phone"].state == model.IsStopped
			w.mu.Unlock()
			if looks != 1 || down == copied || copied && j.State != model.Acknowledged {
				t.Errorf("a copy: %v; %d looks, powered down: %v, the job is %s", copied, looks, down, j.State)
			}
			l.stop()
		})
	}
}

// TestResumeInterruptsALookForCopies: while a store is silent at the look for copies, a resume lets
// the instance run, and the end of the agent leaves the instance as it is.
func TestResumeInterruptsALookForCopies(t *testing.T) {
	for _, by := range []string{"resume", "stop"} {
		waiting(t, job.Options{ProofAge: time.Hour}, func(w *world, l *life, id string) {
			w.mu.Lock()
			w.lookForCopies = func(ctx context.Context) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			w.mu.Unlock()
			l.release(t)
			time.Sleep(time.Minute)
			if j, err := l.j.Job(id); err != nil || j.State != model.Acknowledged || w.instances["phone"].state != model.IsFrozen {
				t.Fatalf("%+v, %v", j, err)
			}
			began := time.Now()
			if by == "resume" {
				if err := l.m.Resume("phone"); err != nil {
					t.Error(err)
				}
				if j := l.final(id); j.State != model.Done || w.instances["phone"].state != model.IsRunning {
					t.Errorf("%+v", j)
				}
			}
			l.stop()
			if by == "stop" && w.instances["phone"].state != model.IsFrozen {
				t.Errorf("after the stop the instance is %s", w.instances["phone"].state)
			}
			if took := time.Since(began); took > 5*time.Second || w.alone != 1 {
				t.Errorf("%s took %s, and there were %d looks", by, took, w.alone)
			}
		})
	}
}
