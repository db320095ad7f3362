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

// TestInstanceLeavesTheConfiguration: a job whose instance the configuration has lost
// goes on by its record in the journal. A backup that is not stored fails and lets
// the instance go; a job with a stored backup waits, and can be resumed and released.
func TestInstanceLeavesTheConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		state model.State // in which the agent stops
		lost  bool        // the journal, too: the note alone is left
		ask   func(m *job.Manager) error
		end   model.State
		left  model.RuntimeState
		cause string
	}{
		"while it is uploaded": {model.Uploading, false, nil, model.Failed, model.IsRunning, "left the configuration"},
		"without the journal":  {model.Uploading, true, nil, model.Failed, model.IsRunning, "journal of this host was lost"},
		"held, resumed":        {model.Held, false, func(m *job.Manager) error { return m.Resume("phone") }, model.Done, model.IsRunning, ""},
		"held, released":       {model.Held, false, func(m *job.Manager) error { return m.Release("phone") }, model.Done, model.IsStopped, ""},
		"cancelled":            {model.Suspending, false, nil, model.Failed, model.IsRunning, "look for the instance"},
	} {
		for _, mode := range []model.Mode{model.ModeFrozen, model.ModeStop} {
			t.Run(fmt.Sprint(name, " ", mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "phone", "other")
					w.instances["phone"].mode = mode
					thaws := c.state != model.Suspending
					w.fail = func(act, _ string) error {
						if !thaws && (act == "thaw" || act == "start") {
							return errors.New("out of order")
						}
						return nil
					}
					w.backup = func(ctx context.Context, r job.BackupRequest) error {
						if c.state == model.Held || r.Instance == "other" {
							return nil
						}
						<-ctx.Done()
						return context.Cause(ctx)
					}
					refuses := true
					w.answer = func(e model.Event) (string, error) {
						if refuses && e.Type == model.EventCompleted {
							return "410 Gone", nil
						}
						return "", nil
					}
					l := w.start(-1, job.Options{})
					task := mustAccept(t, l, "r", "phone")
					id := task.Jobs[0].Job
					if c.state == model.Suspending {
						l.until(id, model.Uploading)
						l.cancel()
						l.until(id, model.Suspending)
					} else {
						l.until(id, c.state)
					}
					l.kill()
					l.stop()
					w.instances["phone"].left, thaws, refuses = true, true, false
					if c.lost {
						w.lose()
					}
					l = w.start(-1, job.Options{})
					if c.ask != nil {
						if err := c.ask(l.m); err != nil {
							t.Error(err)
						}
					}
					j := l.final(id)
					if j.State != c.end || !strings.Contains(j.Cause, c.cause) || len(j.Kept) > 0 {
						t.Errorf("the job is %s (%s), and keeps %s", j.State, j.Cause, j.Kept)
					}
					if got := w.instances["phone"].state; got != c.left {
						t.Errorf("the instance is %s", got)
					}
					if _, err := l.accept("again", "phone"); !errors.Is(err, model.ErrNotFound) {
						t.Errorf("a command for an instance that is not configured: %v", err)
					}
					l.final(mustAccept(t, l, "other", "other").Jobs[0].Job)
					l.stop()
					if len(w.marks)+len(w.snaps) > 0 {
						t.Errorf("left: notes %v, snapshots %v", w.marks, w.snaps)
					}
					for _, f := range w.faults {
						t.Error(f)
					}
				})
			})
		}
	}
}

// TestBaseIsThereWhenItIsKept: a life whose rules keep bases takes over from one whose rules do
// not, and which has removed the snapshot already.
func TestBaseIsThereWhenItIsKept(t *testing.T) {
	for n := range 12 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			w.instances["phone"].policy = model.ReleaseByControlPlane
			l := w.start(-1, job.Options{})
			id := mustAccept(t, l, "r", "phone").Jobs[0].Job
			l.until(id, model.Acknowledged)
			if err := l.m.Resume("phone"); err != nil {
				t.Fatal(err)
			}
			l.dieAfter(n + 1)
			time.Sleep(time.Minute)
			l.kill()
			l.stop()
			l = w.start(-1, job.Options{Bases: job.Bases{Keep: true}})
			l.final(id)
			bases, err := l.j.Bases("")
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range bases {
				if _, there := w.snaps[b.Ref.Path]; !there {
					t.Errorf("death at point %d: base %s is not there", n, b.Ref.Path)
				}
			}
			l.stop()
			for _, f := range w.faults {
				t.Error(f)
			}
		})
	}
}

// TestConfiguredAnewWhileItWaited: a job that has waited over a restart
// acts on its instance as it is configured when the job begins.
func TestConfiguredAnewWhileItWaited(t *testing.T) {
	for name, c := range map[string]struct {
		mode    model.Mode
		restore bool
	}{"frozen": {mode: model.ModeFrozen}, "precopy": {mode: model.ModePrecopy}, "stop": {mode: model.ModeStop}, "live": {mode: model.ModeLive}, "restore": {restore: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone", "other")
				w.instances["phone"].mode = c.mode
				if c.restore {
					w.instances["phone"].state = model.IsStopped
				}
				w.backup = func(ctx context.Context, r job.BackupRequest) error {
					if r.Instance == "other" {
						<-ctx.Done()
						return context.Cause(ctx)
					}
					return nil
				}
				opts := job.Options{Precopy: job.Precopy{Rounds: 2}}
				l := w.start(-1, opts)
				l.until(mustAccept(t, l, "o", "other").Jobs[0].Job, model.Uploading)
				send := l.accept
				if c.restore {
					send = l.prepare
				}
				task, err := send("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				l.kill()
				l.stop()
				w.instances["phone"].config++
				w.instances["other"].config++
				w.backup = nil
				l = w.start(-1, opts)
				if j := l.final(task.Jobs[0].Job); !c.restore && j.State != model.Done {
					t.Errorf("the job is %s (%s)", j.State, j.Cause)
				}
				l.stop()
				for _, f := range w.faults {
					if strings.Contains(f, "phone is recalled") {
						t.Error(f)
					}
				}
			})
		})
	}
}
