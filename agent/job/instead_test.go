package job_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestAnotherWay: where a snapshot can't be made as planned, the job takes another way that
// the storage names, and says so. A way that needs the instance to stand still does not
// serve a round of pre-copy, which does without, nor a backup of an instance that runs.
func TestAnotherWay(t *testing.T) {
	for name, c := range map[string]struct {
		mode  model.Mode
		live  bool // the other way is one for an instance that runs
		other bool // there is one
		end   model.State
	}{
		"held, to another snapshot":   {model.ModeFrozen, true, true, model.Done},
		"held, to reading in place":   {model.ModeFrozen, false, true, model.Done},
		"held, to none":               {model.ModeFrozen, false, false, model.Failed},
		"rounds, to another snapshot": {model.ModePrecopy, true, true, model.Done},
		"rounds, to reading in place": {model.ModePrecopy, false, true, model.Done},
		"live, to another snapshot":   {model.ModeLive, true, true, model.Done},
		"live, to reading in place":   {model.ModeLive, false, true, model.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].mode = c.mode
				asked := false
				w.fail = func(act, _ string) error {
					if act == "snapshot" && !asked {
						return errors.New("text file busy")
					}
					return nil
				}
				w.instead = func(failed model.Snapshot) (model.Snapshot, bool) {
					asked = true
					failed.Ref.Path, failed.Live, failed.Comparable = failed.Ref.Path+"-other", c.live, false
					return failed, c.other
				}
				l := w.start(-1, job.Options{Precopy: job.Precopy{Rounds: 2}})
				task, err := l.accept("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				synctest.Wait()
				l.stop()
				if j.State != c.end {
					t.Errorf("%s: %s", j.State, j.Cause)
				}
				if told := strings.Join(w.lacked, "\n"); c.end == model.Done && (!strings.Contains(told, "text file busy") || !strings.Contains(told, "it takes longer")) {
					t.Errorf("told: %s", told)
				}
				if c.end == model.Failed && !strings.Contains(j.Cause, "text file busy") {
					t.Errorf("the cause is %q", j.Cause)
				}
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
