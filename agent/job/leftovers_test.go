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

// failsTo makes acts of the world fail until it is healed.
func (w *world) failsTo(acts ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = func(act, _ string) error {
		for _, a := range acts {
			if act == a {
				return errors.New("read-only file system")
			}
		}
		return nil
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = nil
}

// TestCleanUpGatesNothing: a snapshot that can't be removed keeps no
// job from its end, no report from being sent, no other job from being
// taken, and no agent from stopping. It is listed until it is gone.
func TestCleanUpGatesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		mode  model.Mode
		fails string // the job itself fails here; "": it is done
		end   model.State
		event string
		left  int
	}{
		"released":               {model.ModeFrozen, "", model.Done, model.EventReleased, 1},
		"failed":                 {model.ModeFrozen, "upload", model.Failed, model.EventFailed, 1},
		"live":                   {model.ModeLive, "", model.Done, model.EventCompleted, 1},
		"after rounds":           {model.ModePrecopy, "", model.Done, model.EventReleased, 3},
		"failed, and after them": {model.ModePrecopy, "upload", model.Failed, model.EventFailed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].mode = c.mode
				w.instances["phone"].state = model.IsRunning
				acts := []string{"remove-leftover"}
				w.failsTo(acts...)
				if c.fails != "" {
					w.backup = func(_ context.Context, _ job.BackupRequest) error { return errors.New("store away") }
				}
				l := w.start(-1, job.Options{Precopy: job.Precopy{Rounds: 2}, DrainTimeout: time.Hour})
				for i := range 2 {
					w.instances["phone"].state = model.IsRunning
					begin := time.Now()
					task, err := l.accept(fmt.Sprint("r", i), "phone")
					if err != nil {
						t.Fatalf("command %d: %v", i, err)
					}
					j := l.final(task.Jobs[0].Job)
					time.Sleep(5 * time.Second) // the events go out
					if last := w.events[len(w.events)-1]; j.State != c.end || last.Type != c.event || last.Job != j.ID {
						t.Errorf("job %d: %s, %s, the last event is %+v", i, j.State, j.Cause, last)
					}
					if took := time.Since(begin); took > time.Minute {
						t.Errorf("job %d took %s", i, took)
					}
				}
				left, err := l.m.Leftovers()
				if err != nil || len(left) < 2*c.left {
					t.Fatalf("leftovers: %+v, %v", left, err)
				}
				for _, f := range left {
					if f.Instance != "phone" || f.Job == "" || f.Path() == "" || f.Since.IsZero() || !strings.Contains(f.Error, "read-only") {
						t.Errorf("leftover %+v", f)
					}
				}
				begin := time.Now()
				l.stop()
				if took := time.Since(begin); took > time.Minute {
					t.Errorf("the stop took %s", took)
				}
				// The next life knows them, tries again, and goes on trying.
				l = w.start(-1, job.Options{})
				if again, err := l.m.Leftovers(); err != nil || len(again) != len(left) || again[0].Since != left[0].Since {
					t.Errorf("after a restart: %+v, %v", again, err)
				}
				time.Sleep(5 * time.Hour)
				w.heal()
				time.Sleep(2 * time.Hour)
				if left, err := l.m.Leftovers(); err != nil || len(left) > 0 || len(w.snaps) > 0 {
					t.Errorf("healed: %+v, %v, %v", left, w.snaps, err)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestPutOffWithLeftovers: a job that is put off while its snapshot
// can't be removed is done again, under another name.
func TestPutOffWithLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.failsTo("remove-leftover")
		w.backup = func(ctx context.Context, _ job.BackupRequest) error { <-ctx.Done(); return errors.New("cut off") }
		l := w.start(-1, job.Options{DrainTimeout: time.Second})
		task, err := l.accept("r", "phone")
		if err != nil {
			t.Fatal(err)
		}
		l.until(task.Jobs[0].Job, model.Uploading)
		l.stop()
		w.mu.Lock()
		w.backup = nil
		w.mu.Unlock()
		l = w.start(-1, job.Options{})
		j := l.final(task.Jobs[0].Job)
		if j.State != model.Done || j.Attempts != 1 {
			t.Errorf("%s after %d attempts: %s", j.State, j.Attempts, j.Cause)
		}
		w.heal()
		time.Sleep(2 * time.Hour)
		if left, err := l.m.Leftovers(); err != nil || len(left) > 0 || len(w.snaps) > 0 {
			t.Errorf("healed: %+v, %v, %v", left, w.snaps, err)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestRestoreLeavesWhatItReplaced: replaced volumes that
// a restore can't remove keep no instance from its start.
func TestRestoreLeavesWhatItReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		stuck string
		end   model.State
		left  int
	}{"done": {"", model.Done, 2}, "failed": {"media", model.Failed, 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{7}
				for _, v := range []string{"data", "media"} { // volumes with content are kept
					w.disks["/phone/"+v] = disk{tree: "old " + v, empty: true}
				}
				w.stuck = c.stuck
				l := w.start(-1, job.Options{StartRestored: true})
				w.observe = func(j *model.Job) { // the first removal is before the volumes are built
					if j.State == model.Placing {
						w.fail = func(act, _ string) error {
							if act == "discard" {
								return errors.New("operation not permitted")
							}
							return nil
						}
					}
				}
				task, err := l.prepare("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				if running := w.instances["phone"].state == model.IsRunning; j.State != c.end || running != (c.end == model.Done) {
					t.Errorf("%s: %s; the instance is %s", j.State, j.Cause, w.instances["phone"].state)
				}
				left, err := l.m.Leftovers()
				if err != nil || len(left) != c.left || left[0].Place == nil || !strings.Contains(left[0].Path(), ".stage-") {
					t.Errorf("leftovers: %+v, %v", left, err)
				}
				w.observe = nil
				w.heal()
				time.Sleep(3 * time.Hour)
				for path := range w.disks {
					if strings.Contains(path, ".stage-") {
						t.Errorf("left: %s", path)
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
