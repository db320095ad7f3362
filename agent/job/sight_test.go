package job_test

import (
	"context"
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

// told has the types of events that the control plane took of a job, without progress.
func (w *world) told(id string) (types []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Job == id && e.Type != model.EventProgress {
			types = append(types, e.Type)
		}
	}
	return types
}

// Each case is an act of somebody on an instance while the report of its backup waits. The instance
// is not powered down on the strength of that backup, the job says why, and lets the instance go.
func TestInstanceThatRanIsNotReleased(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   model.Mode
		before model.RuntimeState
		touch  func(p *phone)
		why    string
		after  model.RuntimeState
	}{
		"made anew and frozen by its owner": {
			touch: func(p *phone) { p.id++; p.starts(); p.state, p.owner = model.IsFrozen, true },
			why:   "another one, phone-1, has its name, is frozen, and was left alone", after: model.IsFrozen,
		},
		"made anew": {
			touch: func(p *phone) { p.id++; p.starts() }, why: "removed it", after: model.IsRunning,
		},
		"removed": {
			touch: func(p *phone) { p.id, p.renamed, p.owner = p.id+1, true, true }, why: "someone else removed it", after: model.IsFrozen,
		},
		"let run and frozen again": {touch: (*phone).runs, why: "let the instance run and froze it again", after: model.IsRunning},
		"started again and frozen": {
			touch: func(p *phone) { p.starts(); p.state = model.IsFrozen }, why: "was started, or let run, by someone else", after: model.IsRunning,
		},
		"let run":               {touch: func(p *phone) { p.state = model.IsRunning; p.runs() }, why: "is running", after: model.IsRunning},
		"let run until it ends": {touch: func(p *phone) { p.runs(); p.state = model.IsStopped }, why: "is stopped", after: model.IsStopped},
		"let run and killed": {
			touch: func(p *phone) { p.runs(); p.state, p.by = model.IsStopped, "power-down" }, why: "is stopped", after: model.IsStopped,
		},
		"stopped, and started and stopped": {
			before: model.IsStopped, touch: func(p *phone) { p.starts(); p.state = model.IsStopped }, why: "was started", after: model.IsStopped,
		},
		"stopped, and started and frozen": {
			before: model.IsStopped, touch: func(p *phone) { p.starts(); p.state, p.owner = model.IsFrozen, true }, why: "was started", after: model.IsFrozen,
		},
		"stopped by the job, and started and stopped": {
			mode: model.ModeStop, touch: func(p *phone) { p.starts(); p.state = model.IsStopped }, why: "was started", after: model.IsRunning,
		},
	} {
		// The look comes before the report, before the power-down, and
		// inside of it; and all of that in another life.
		for _, when := range []model.State{model.Stored, model.Acknowledged, model.Releasing, "another life"} {
			t.Run(name+", "+string(when), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "phone")
					p := w.instances["phone"]
					p.mode = tt.mode
					if tt.before != "" {
						p.state = tt.before
					}
					touched := false
					w.fail = func(act, _ string) error {
						now := act == "sign" && when == model.Stored || act == "power-down" && when == model.Releasing
						if now && !touched {
							touched = true
							// within the power-down: after the job's look, before the driver's look
							tt.touch(p)
							if act == "sign" {
								return errors.New("one moment")
							}
						}
						return nil
					}
					if when == model.Acknowledged || when == "another life" || tt.before == model.IsStopped || tt.mode == model.ModeStop {
						p.policy = model.ReleaseByControlPlane // it waits, so that it can be touched
					}
					l := w.start(-1, job.Options{})
					id := mustAccept(t, l, "r", "phone").Jobs[0].Job
					if p.policy == model.ReleaseByControlPlane {
						if !touched || when != model.Stored {
							l.until(id, model.Acknowledged)
						}
						if when == "another life" {
							l.kill()
							l.stop()
						}
						if !touched {
							tt.touch(p)
						}
						if when == "another life" {
							l = w.start(-1, job.Options{})
						}
						if err := l.m.Release("phone"); err != nil && when != model.Stored {
							t.Fatal(err)
						}
					}
					j := l.final(id)
					time.Sleep(time.Minute)
					l.stop()
					if j.State != model.Failed || !strings.Contains(j.Cause, tt.why) {
						t.Errorf("%s: %s", j.State, j.Cause)
					}
					if p.state != tt.after || p.downs != 0 {
						t.Errorf("the instance is %s, was powered down %d times", p.state, p.downs)
					}
					if told := w.told(id); told[len(told)-1] != model.EventFailed || slices.Contains(told, model.EventReleased) {
						t.Errorf("told: %v", told)
					}
					if len(w.faults) > 0 || len(w.marks) > 0 || len(w.snaps) > 0 {
						t.Error(w.faults, w.marks, w.snaps)
					}
				})
			})
		}
	}
}

// An instance that gets another name while it is held is the same:
// it is released, resumed, or let go after a failure.
func TestRenamedInstanceIsKnownByItsIdentity(t *testing.T) {
	for name, ask := range map[string]func(l *life) error{
		"release": func(l *life) error { return l.m.Release("phone") },
		"resume":  func(l *life) error { return l.m.Resume("phone") },
	} {
		for _, mode := range []model.Mode{model.ModeFrozen, model.ModeStop} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "phone")
					p := w.instances["phone"]
					p.policy, p.mode = model.ReleaseByControlPlane, mode
					l := w.start(-1, job.Options{})
					id := mustAccept(t, l, "r", "phone").Jobs[0].Job
					l.until(id, model.Acknowledged)
					p.renamed = true
					if err := ask(l); err != nil {
						t.Fatal(err)
					}
					j := l.final(id)
					l.stop()
					want := map[string]model.RuntimeState{"release": model.IsStopped, "resume": model.IsRunning}[name]
					if j.State != model.Done || p.state != want || len(w.faults) > 0 || len(w.marks) > 0 {
						t.Errorf("%s (%s), the instance is %s, %v, notes %v", j.State, j.Cause, p.state, w.faults, w.marks)
					}
				})
			})
		}
	}
	t.Run("failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			p := w.instances["phone"]
			w.fail = func(act, _ string) error {
				if act == "snapshot" {
					p.renamed = true
					return errors.New("no room")
				}
				return nil
			}
			l := w.start(-1, job.Options{})
			j := l.final(mustAccept(t, l, "r", "phone").Jobs[0].Job)
			l.stop()
			if j.State != model.Failed || p.state != model.IsRunning || len(w.faults) > 0 {
				t.Errorf("%s (%s), the instance is %s, %v", j.State, j.Cause, p.state, w.faults)
			}
		})
	})
}

// A restore does not take the volumes from an instance that only has another name by now.
func TestRestoreLeavesARenamedInstanceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		p := w.instances["phone"]
		l := w.start(-1, job.Options{})
		l.final(mustAccept(t, l, "backup", "phone").Jobs[0].Job)
		p.starts()
		p.renamed = true
		task, err := l.send(job.Request{ID: "restore", Kind: model.KindRestore, Tenant: "acme", Instances: []string{"phone"}})
		if err != nil {
			t.Fatal(err)
		}
		j := l.final(task.Jobs[0].Job)
		l.stop()
		if j.State != model.Failed || !strings.Contains(j.Cause, "it has another name") || !strings.Contains(j.Cause, p.identity()) {
			t.Errorf("%s (%s)", j.State, j.Cause)
		}
	})
}

// A power-down that has worked is a release, whatever its call has
// returned, and the instance is kept down after it.
func TestPowerDownThatReturnsAnError(t *testing.T) {
	for _, dies := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			p := w.instances["phone"]
			kept, answers := 0, 0
			w.fail = func(act, _ string) error {
				switch act {
				case "power-down-answer":
					if answers++; answers == 1 {
						return errors.New("exit status 1")
					}
				case "keep-down":
					if kept++; kept < 4 {
						return errors.New("the engine is away")
					}
				}
				return nil
			}
			l := w.start(-1, job.Options{})
			if dies {
				l.dieAt(crashpoint.PowerDown + crashpoint.After)
			}
			id := mustAccept(t, l, "r", "phone").Jobs[0].Job
			if dies {
				<-l.dead
				l.stop()
				l = w.start(-1, job.Options{})
			}
			j := l.final(id)
			time.Sleep(time.Minute)
			l.stop()
			if told := w.told(id); j.State != model.Done || told[len(told)-1] != model.EventReleased || p.state != model.IsStopped || p.downs != 1 || kept != 4 {
				t.Errorf("%s (%s), told %v, the instance is %s, powered down %d times, kept down %d times", j.State, j.Cause, told, p.state, p.downs, kept)
			}
			for _, f := range w.faults {
				t.Error(f)
			}
		})
	}
}

// An engine that can't be told to keep an instance down does not keep the release from being told.
func TestEngineThatCannotKeepAnInstanceDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.fail = func(act, _ string) error {
			if act == "keep-down" {
				return job.ErrNoKeeping
			}
			return nil
		}
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		j := l.final(id)
		time.Sleep(time.Minute)
		l.stop()
		if told := w.told(id); j.State != model.Done || !slices.Contains(told, model.EventReleased) || !slices.ContainsFunc(w.lacked, func(s string) bool { return strings.Contains(s, "keep the instance down") }) {
			t.Errorf("%s (%s), told %v, went on without %v", j.State, j.Cause, told, w.lacked)
		}
	})
}

// The agent died before it could power the instance down, and its
// owner ended it meanwhile: that is no release.
func TestEndedByItsOwnerWhileTheAgentWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		p := w.instances["phone"]
		l := w.start(-1, job.Options{})
		l.dieAt(crashpoint.PowerDown + crashpoint.Before)
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		<-l.dead
		l.stop()
		p.runs()
		p.state = model.IsStopped
		l = w.start(-1, job.Options{})
		j := l.final(id)
		l.stop()
		if j.State != model.Failed || !strings.Contains(j.Cause, "not powered down by this agent") || len(w.faults) > 0 {
			t.Errorf("%s (%s), %v", j.State, j.Cause, w.faults)
		}
	})
}

// Where the runtime can't tell whether the instance ran,
// a person has to find out and ask for the release.
func TestReleaseWithoutProofIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		p := w.instances["phone"]
		p.blind = true
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Acknowledged)
		for range 2 {
			time.Sleep(24 * time.Hour)
			if j, err := l.j.Job(id); err != nil || j.State != model.Acknowledged || !j.Unproven() || p.state != model.IsFrozen {
				t.Fatalf("%+v, %v; the instance is %s", j, err, p.state)
			}
			l.stop()
			l = w.start(-1, job.Options{})
		}
		if err := l.m.Release("phone"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Done || p.downs != 1 {
			t.Errorf("%s (%s), powered down %d times", j.State, j.Cause, p.downs)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// Of an instance that ran while it was read there is no backup that
// a restore could take for its newest.
func TestNothingIsStoredOfAnInstanceThatRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		p := w.instances["phone"]
		w.backup = func(context.Context, job.BackupRequest) error {
			p.runs()
			return nil
		}
		l := w.start(-1, job.Options{})
		j := l.final(mustAccept(t, l, "r", "phone").Jobs[0].Job)
		l.stop()
		if j.State != model.Failed || !strings.Contains(j.Cause, "let the instance run and froze it again") || len(w.backups["phone"]) != 0 || p.state != model.IsRunning {
			t.Errorf("%s (%s), the instance is %s, backups %v", j.State, j.Cause, p.state, w.backups)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// An instance that is seen to be held when the store has to be asked first was not powered down
// by an earlier life: who lets it run and ends it while the store is away is somebody else.
func TestEndedByItsOwnerWhileTheStoreIsAway(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone")
			p := w.instances["phone"]
			l := w.start(-1, job.Options{})
			l.dieAt(crashpoint.PowerDown + crashpoint.Before)
			id := mustAccept(t, l, "r", "phone").Jobs[0].Job
			<-l.dead
			l.stop()
			w.present = func(context.Context, *model.Job) error { return errors.New("no answer") }
			l = w.start(-1, job.Options{})
			l.until(id, model.Acknowledged)
			time.Sleep(time.Minute)
			if restarts {
				l.stop()
				l = w.start(-1, job.Options{})
				time.Sleep(time.Minute)
			}
			w.mu.Lock()
			p.runs()
			p.state, p.by = model.IsStopped, "power-down" // killed, as by the agent
			w.present = nil
			w.mu.Unlock()
			j := l.final(id)
			time.Sleep(time.Minute)
			l.stop()
			if j.State != model.Failed || slices.Contains(w.told(id), model.EventReleased) {
				t.Errorf("restarted %v: %s (%s)", restarts, j.State, j.Cause)
			}
		})
	}
}
