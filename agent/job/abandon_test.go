package job_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestNoteOfAnAbandonedJob: a note that stayed when its job was given up goes with the next start,
// so that a journal that is lost later lets nobody touch the instance that an operator has.
func TestNoteOfAnAbandonedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.instances["a"].policy = model.ReleaseByControlPlane
		w.fail = func(act, _ string) error {
			if act == "thaw" || act == "clear" {
				return errors.New("out of order")
			}
			return nil
		}
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "a").Jobs[0].Job
		l.until(id, model.Acknowledged)
		if err := l.m.Resume("a"); err != nil {
			t.Fatal(err)
		}
		l.until(id, model.Resuming)
		w.mu.Lock()
		w.instances["a"].owner = true
		w.mu.Unlock()
		if _, err := l.m.Abandon("a"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Failed || len(w.marks) != 1 {
			t.Fatalf("%s: %s, %d notes", j.State, j.Cause, len(w.marks))
		}
		l.stop()

		w.fail = nil
		l = w.start(-1, job.Options{})
		l.stop()
		if len(w.marks) != 0 {
			t.Errorf("the note is still there after a start")
		}
		w.lose()
		l = w.start(-1, job.Options{})
		time.Sleep(time.Minute)
		l.stop()
		if s := w.instances["a"].state; s != model.IsFrozen {
			t.Errorf("the instance is %s", s)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}
