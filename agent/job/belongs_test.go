package job_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestFailedRestoreKeepsNoClaim: a restore that failed and did nothing to the volumes lets go of
// the claim that it made, also where the host knows a backup of the instance, and after further
// restores that failed. A claim by another job of the host stays.
func TestFailedRestoreKeepsNoClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].policy = model.ReleaseByControlPlane
		l := w.start(-1, job.Options{})
		backup := mustAccept(t, l, "backup", "phone").Jobs[0].Job
		l.until(backup, model.Acknowledged)
		if err := l.m.Resume("phone"); err != nil {
			t.Fatal(err)
		}
		l.final(backup)
		w.mu.Lock()
		w.instances["phone"].state = model.IsStopped
		w.mu.Unlock()
		refused := func(context.Context, int) error { return errors.New("the store is away") }
		prepare := func(request string, restore func(context.Context, int) error, want model.State) string {
			t.Helper()
			w.mu.Lock()
			w.restore = restore
			clear(w.disks) // a new disk
			w.mu.Unlock()
			task, err := l.prepare(request, "phone")
			if err != nil {
				t.Fatal(err)
			}
			id := task.Jobs[0].Job
			if j := l.final(id); j.State != want {
				t.Fatalf("%s: %s: %s", request, j.State, j.Cause)
			}
			return id
		}
		check := func(when, origin string, want bool) {
			t.Helper()
			if got, err := l.j.KeepsClaim("phone", origin); err != nil || got != want {
				t.Errorf("%s: keeps the claim of job %q: %v, %v", when, origin, got, err)
			}
		}
		if b, err := l.j.Belongs("phone"); err != nil || !b.Here {
			t.Fatalf("after the backup: %+v, %v", b, err)
		}
		one := prepare("one", refused, model.Failed)
		check("a restore failed", one, false)
		check("a restore failed", "of an operator", true)
		check("a restore failed", "", true)
		two := prepare("two", refused, model.Failed)
		check("two failed", one, false)
		check("two failed", two, false)
		three := prepare("three", nil, model.Done)
		check("the third is done", one, true)
		check("the third is done", three, true)
		four := prepare("four", refused, model.Failed)
		check("the fourth failed", three, true)
		check("the fourth failed", four, false)
		l.stop()
	})
}
