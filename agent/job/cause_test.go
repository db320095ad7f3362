package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestStorageFailsWithItsCause: when a snapshot can't be made, or can't be read
// any more, the job and its report give the storage's own words, in a round of
// pre-copy as in the hold, and the instance runs on with nothing left behind.
func TestStorageFailsWithItsCause(t *testing.T) {
	const why = "volume \"data\": snapshot s: too little room for snapshots: 96 % of the data room of the thin pool g/p is used"
	making := func(w *world) {
		w.fail = func(act, _ string) error {
			if act == "snapshot" {
				return errors.New(why)
			}
			return nil
		}
	}
	reading := func(precopy bool) func(w *world) {
		return func(w *world) {
			w.backup = func(_ context.Context, r job.BackupRequest) error {
				if r.Precopy == precopy {
					return errors.New(why)
				}
				return nil
			}
		}
	}
	for _, tt := range []struct {
		name string
		mode model.Mode
		set  func(w *world)
	}{
		{"no snapshot of a running instance", model.ModePrecopy, making},
		{"no snapshot of a frozen instance", model.ModeFrozen, making},
		{"no snapshot of a stopped instance", model.ModeStop, making},
		{"read in a round", model.ModePrecopy, reading(true)},
		{"read after the rounds", model.ModePrecopy, reading(false)},
		{"read live", model.ModeLive, reading(false)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].mode = tt.mode
				tt.set(w)
				l := w.start(-1, job.Options{Precopy: job.Precopy{Rounds: 2}, Bases: job.Bases{Keep: true}})
				task, err := l.accept("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				synctest.Wait()
				l.stop()
				if j.State != model.Failed || !strings.Contains(j.Cause, why) {
					t.Errorf("%s: %s", j.State, j.Cause)
				}
				last := w.events[len(w.events)-1]
				var data struct {
					Reason string `json:"reason"`
				}
				if err := json.Unmarshal(last.Data, &data); err != nil || last.Type != model.EventFailed || data.Reason != j.Cause {
					t.Errorf("the report: %s %q, %v", last.Type, data.Reason, err)
				}
				bases, snaps := 0, len(w.snaps)
				if tt.name == "read after the rounds" {
					bases = 2 // of the last round
				}
				if w.instances["phone"].state != model.IsRunning || snaps != bases {
					t.Errorf("the instance is %s, snapshots %v", w.instances["phone"].state, w.snaps)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
