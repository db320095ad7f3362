package job_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// forked runs do on a world in which phone's backup makes a fork with one of another host, and its
// report is acknowledged.
func forked(t *testing.T, policy model.Policy, opts job.Options, do func(w *world, l *life, id string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].policy = policy
		w.forks = []model.Fork{{Backup: "b-other", Host: "host-b"}}
		l := w.start(-1, opts)
		id := mustAccept(t, l, "request-1", "phone").Jobs[0].Job
		l.until(id, model.Acknowledged)
		do(w, l, id)
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// held checks that the instance stands still for a while, although its report is acknowledged.
func (l *life) held(t *testing.T, id string) {
	t.Helper()
	time.Sleep(time.Hour)
	j, err := l.j.Job(id)
	if err != nil || j.State != model.Acknowledged || !j.ForkOpen() {
		t.Errorf("%+v, %v", j, err)
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if p := l.w.instances["phone"]; p.downs > 0 || p.state != model.IsFrozen {
		t.Errorf("the instance is %s, powered down %d times", p.state, p.downs)
	}
}

// TestForkIsHeld: a fork is in the report, and the instance is released only after
// somebody decided, whoever releases instances otherwise, and the vault has the decision.
func TestForkIsHeld(t *testing.T) {
	for _, policy := range []model.Policy{model.ReleaseByAgent, model.ReleaseByControlPlane} {
		forked(t, policy, job.Options{}, func(w *world, l *life, id string) {
			l.held(t, id)
			var told struct{ Fork []model.Fork }
			for _, e := range w.events {
				if e.Type == model.EventCompleted {
					if err := json.Unmarshal(e.Data, &told); err != nil {
						t.Error(err)
					}
				}
			}
			if !slices.Equal(told.Fork, w.forks) {
				t.Errorf("%s: told of %v", policy, told.Fork)
			}
			if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); err != nil {
				t.Error(err)
			}
			if policy == model.ReleaseByControlPlane {
				time.Sleep(time.Hour)
				if w.instances["phone"].downs > 0 {
					t.Error("an accepted fork released an instance that the control plane releases")
				}
				l.release(t)
			}
			j := l.final(id)
			if j.State != model.Done || w.instances["phone"].downs != 1 {
				t.Errorf("%s: %+v", policy, j)
			}
			if want := (model.ForkDecision{Backup: j.Result.BackupID, By: "an operator"}); !slices.Equal(w.decisions, []model.ForkDecision{want}) {
				t.Errorf("%s: decided %v, want %v", policy, w.decisions, want)
			}
			l.stop()
		})
	}
}

// TestReleaseDecidesFork: a release decides a fork of which the acknowledged report told. A
// release before the acknowledgement does not: its sender need not have known of the fork.
func TestReleaseDecidesFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].policy = model.ReleaseByControlPlane
		w.forks = []model.Fork{{Backup: "b-other"}}
		w.answer = func(model.Event) (string, error) { return "", errors.New("away") }
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "request-1", "phone").Jobs[0].Job
		l.until(id, model.Reported)
		l.release(t)
		w.mu.Lock()
		w.answer = nil
		w.mu.Unlock()
		l.until(id, model.Acknowledged)
		l.held(t, id)
		l.release(t)
		if j := l.final(id); j.State != model.Done || w.instances["phone"].downs != 1 || len(w.decisions) != 1 || w.decisions[0].Backup != j.Result.BackupID {
			t.Errorf("%+v, decided %v", j, w.decisions)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestForkDecisionReachesTheVaultFirst: the instance stays up while the store does not take the
// decision, over a restart too; a resume ends the wait, and leaves the fork open.
func TestForkDecisionReachesTheVaultFirst(t *testing.T) {
	forked(t, model.ReleaseByAgent, job.Options{}, func(w *world, l *life, id string) {
		w.mu.Lock()
		w.fail = func(act, _ string) error {
			if act == "decide" {
				return errors.New("the store is away")
			}
			return nil
		}
		w.mu.Unlock()
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); err == nil {
			t.Error("a decision that the store does not take is accepted")
		}
		l.release(t)
		l.held(t, id)
		l.stop()
		l = w.start(-1, job.Options{})
		l.held(t, id)
		if err := l.m.Resume("phone"); err != nil {
			t.Error(err)
		}
		if j := l.final(id); j.State != model.Done || !j.ForkOpen() || w.instances["phone"].state != model.IsRunning || len(w.decisions) > 0 {
			t.Errorf("%+v, decided %v", j, w.decisions)
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		// The job is over, and its fork can be decided all the same, for the other backup too.
		if err := l.m.AcceptFork(t.Context(), "phone", "b-other", "an operator", false); err != nil {
			t.Error(err)
		}
		if j, err := l.j.Job(id); err != nil || j.ForkOpen() || len(w.decisions) != 1 || w.decisions[0].Backup != "b-other" {
			t.Errorf("%+v, %v, decided %v", j, err, w.decisions)
		}
		l.stop()
	})
}

// TestForkIsReleasedByConfiguration: on_fork: release accepts the backup of this host.
func TestForkIsReleasedByConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.forks = []model.Fork{{Backup: "b-other"}}
		l := w.start(-1, job.Options{OnFork: job.ForkRelease})
		id := mustAccept(t, l, "request-1", "phone").Jobs[0].Job
		if j := l.final(id); j.State != model.Done || w.instances["phone"].downs != 1 || len(w.decisions) != 1 || w.decisions[0].Backup != j.Result.BackupID {
			t.Errorf("%+v, decided %v", j, w.decisions)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestNoForkToAccept: without a fork there is nothing to decide.
func TestNoForkToAccept(t *testing.T) {
	in(t, job.Options{}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); !errors.Is(err, model.ErrState) {
			t.Errorf("before any backup: %v", err)
		}
		l.final(mustAccept(t, l, "request-1", "phone").Jobs[0].Job)
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); !errors.Is(err, model.ErrState) || len(w.decisions) > 0 {
			t.Errorf("after a backup without a fork: %v", err)
		}
	})
}

// TestTriedBackupIsRemembered: a process that dies between the manifest and the journal leaves the
// id of the backup in the journal, and the next try is told of it; a stored backup takes its place.
func TestTriedBackupIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		l := w.start(-1, job.Options{})
		l.dieAt(crashpoint.Upload + crashpoint.After)
		task, err := l.accept("request-1", "phone")
		if err != nil {
			t.Fatal(err)
		}
		<-l.dead
		l.stop()
		l = w.start(-1, job.Options{})
		j, jerr := l.j.Job(task.Jobs[0].Job)
		c, err := l.j.Content("phone")
		if err != nil || jerr != nil || len(w.backups["phone"]) == 0 {
			t.Fatalf("%v, %v", err, jerr)
		}
		if j.Result == nil && (c.Backup != "" || len(c.Tried) == 0) {
			t.Errorf("the journal has %+v", c)
		}
		done := l.final(task.Jobs[0].Job)
		if c, err = l.j.Content("phone"); err != nil || c.Backup != done.Result.BackupID || len(c.Tried) > 0 {
			t.Errorf("after the backup is stored: %+v, %v", c, err)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// elsewhere stores a decision about the fork of phone in the vault, as another host does.
func (w *world) elsewhere(backup string) model.ForkDecision {
	d := model.ForkDecision{Backup: backup, By: "an operator", Host: "host-b"}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decisions = append(w.decisions, d)
	return d
}

// TestForkDecidedElsewhere: a decision of another host reaches the job that is held here at the
// next look, whichever backup counts, and the job goes on as its policy says. Nothing is decided
// a second time. A store that does not answer leaves the job as it is.
func TestForkDecidedElsewhere(t *testing.T) {
	for _, policy := range []model.Policy{model.ReleaseByAgent, model.ReleaseByControlPlane} {
		forked(t, policy, job.Options{}, func(w *world, l *life, id string) {
			defer l.stop()
			learn := func() error { return l.m.LearnForks(t.Context(), []string{"phone", "unknown"}) }
			if err := learn(); err != nil {
				t.Error(err)
			}
			l.held(t, id)
			w.elsewhere("b-other")
			w.mu.Lock()
			w.fail = func(act, _ string) error {
				if act == "decided" {
					return errors.New("the store is away")
				}
				return nil
			}
			w.mu.Unlock()
			if err := learn(); err == nil {
				t.Error("a store that is away decides")
			}
			l.held(t, id)
			w.mu.Lock()
			w.fail = nil
			w.mu.Unlock()
			if err := learn(); err != nil {
				t.Error(err)
			}
			if policy == model.ReleaseByControlPlane {
				time.Sleep(time.Hour)
				if j, err := l.j.Job(id); err != nil || j.ForkOpen() || w.instances["phone"].downs > 0 {
					t.Errorf("a decision of another host released an instance that the control plane releases: %+v, %v", j, err)
				}
				l.release(t)
			}
			j := l.final(id)
			if j.State != model.Done || j.Fork.Backup != "b-other" || j.Fork.Host != "host-b" || w.instances["phone"].downs != 1 || len(w.decisions) != 1 {
				t.Errorf("%s: %+v, decided %v", policy, j, w.decisions)
			}
		})
	}
}

// TestFirstDecisionCounts: a release here, and on_fork: release, store no second decision
// where another host decided for its own backup before. The job says which backup counts, and
// which one was asked for. An operator is refused with the first decision, and may decide again.
func TestFirstDecisionCounts(t *testing.T) {
	forked(t, model.ReleaseByControlPlane, job.Options{}, func(w *world, l *life, id string) {
		defer l.stop()
		w.elsewhere("b-other")
		var decided *job.ForkDecidedError
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); !errors.As(err, &decided) || decided.First.Backup != "b-other" {
			t.Errorf("a second decision: %v", err)
		}
		l.release(t)
		j := l.final(id)
		words := "backup b-other counts, by an operator on host host-b, which was decided before " + j.Result.BackupID + " was asked for here"
		if j.State != model.Done || j.ForkWords() != words || w.instances["phone"].downs != 1 || len(w.decisions) != 1 {
			t.Errorf("%+v says %q, decided %v", j, j.ForkWords(), w.decisions)
		}
		for _, e := range w.events {
			told := strings.Contains(string(e.Data), `"fork_decided":{"backup":"b-other","by":"an operator","host":"host-b","asked":"`+j.Result.BackupID+`"}`)
			if told != (e.Type == model.EventReleased) {
				t.Errorf("%s: %s", e.Type, e.Data)
			}
		}
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", true); err != nil {
			t.Error(err)
		}
		if j, err := l.j.Job(id); err != nil || j.Fork.Backup != j.Result.BackupID || j.Fork.Asked != "" || len(w.decisions) != 2 {
			t.Errorf("decided again: %+v, %v, %v", j, err, w.decisions)
		}
	})
}

// TestForkDecidedAtOneMoment: another host put a decision at the same moment, which counts more,
// and did not withdraw it. This host learns of that right before the release, and says so.
func TestForkDecidedAtOneMoment(t *testing.T) {
	forked(t, model.ReleaseByControlPlane, job.Options{}, func(w *world, l *life, id string) {
		if err := l.m.AcceptFork(t.Context(), "phone", "", "an operator", false); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.decisions = append(w.decisions, model.ForkDecision{Backup: "b-other", By: "another operator", Host: "host-b"})
		failures := 0
		w.fail = func(act, _ string) error {
			if act == "decided" && failures < 3 {
				failures++
				return errors.New("the store is away")
			}
			return nil
		}
		w.mu.Unlock()
		l.release(t)
		j := l.final(id)
		want := model.ForkDecision{Backup: "b-other", By: "another operator", Host: "host-b", Asked: j.Result.BackupID, Stored: true}
		if j.State != model.Done || j.Fork != want || failures != 3 {
			t.Errorf("%s, %+v, after %d looks that failed", j.State, j.Fork, failures)
		}
	})
}
