package job_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// modes runs one command for all phones and returns their jobs.
func modes(t *testing.T, w *world, opts job.Options, names ...string) map[string]*model.Job {
	l := w.start(-1, opts)
	task, err := l.accept("request-1", names...)
	if err != nil {
		t.Fatal(err)
	}
	jobs := map[string]*model.Job{}
	for _, ref := range task.Jobs {
		jobs[ref.Instance] = l.final(ref.Job)
	}
	l.stop()
	for _, f := range w.faults {
		t.Error(f)
	}
	if len(w.snaps) > 0 {
		t.Errorf("leaked snapshots: %v", w.snaps)
	}
	return jobs
}

func TestModeDecidesHowAnInstanceIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "precopy", "pinned", "pinned-warm", "mixed", "frozen", "stop", "live", "pinned-live", "pinned-warm-live", "off")
		for name, p := range w.instances {
			p.mode = model.Mode(strings.TrimPrefix(strings.TrimPrefix(name, "pinned-"), "warm-"))
			p.pinned = strings.HasPrefix(name, "pinned")
			p.warm = name == "mixed" || strings.HasPrefix(name, "pinned-warm")
		}
		w.instances["pinned-warm"].mode, w.instances["mixed"].mode = model.ModePrecopy, model.ModePrecopy
		w.instances["pinned"].mode, w.instances["off"].mode = model.ModePrecopy, model.ModePrecopy
		w.instances["off"].state = model.IsStopped
		jobs := modes(t, w, job.Options{Precopy: job.Precopy{Rounds: 3}},
			"precopy", "pinned", "pinned-warm", "mixed", "frozen", "stop", "live", "pinned-live", "pinned-warm-live", "off")
		for name, want := range map[string]struct {
			state  model.State
			rounds int
			at     model.RuntimeState
			held   bool
		}{
			"precopy":     {model.Done, 3, model.IsStopped, true},
			"pinned":      {model.Done, 0, model.IsStopped, true},
			"pinned-warm": {model.Done, 3, model.IsStopped, true},
			"mixed":       {model.Done, 3, model.IsStopped, true},
			"frozen":      {model.Done, 0, model.IsStopped, true},
			"stop":        {model.Done, 3, model.IsStopped, true},
			"live":        {model.Done, 0, model.IsRunning, false},
			"pinned-live": {model.Failed, 0, model.IsRunning, false},
			// Read in place while it runs, it would be of no single moment.
			"pinned-warm-live": {model.Failed, 0, model.IsRunning, false},
			"off":              {model.Done, 0, model.IsStopped, true},
		} {
			j, p := jobs[name], w.instances[name]
			if j.State != want.state || len(j.Rounds) != want.rounds || p.state != want.at || j.HeldSince.IsZero() == want.held {
				t.Errorf("%s: %s (%s), %d rounds, the instance is %s, held since %v", name, j.State, j.Cause, len(j.Rounds), p.state, j.HeldSince)
			}
		}
		if len(w.backups["live"]) != 1 || w.instances["live"].downs != 0 {
			t.Errorf("live: %d backups, powered down %d times", len(w.backups["live"]), w.instances["live"].downs)
		}
		if why := jobs["pinned-live"].Cause; !strings.Contains(why, "needs snapshots") {
			t.Errorf("pinned-live failed: %s", why)
		}
	})
}

// An instance whose volume is not mounted is not touched, and its job says why.
func TestUnmountedVolumeTouchesNoInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "precopy", "frozen", "stop", "live")
		for name, p := range w.instances {
			p.mode, p.gone = model.Mode(name), true
		}
		w.fail = func(act, instance string) error {
			if act != "state" && act != "find-kept" { // which touches no instance
				t.Errorf("%s of %s", act, instance)
			}
			return nil
		}
		for name, j := range modes(t, w, job.Options{Precopy: job.Precopy{Rounds: 3}}, "precopy", "frozen", "stop", "live") {
			if j.State != model.Failed || !j.HeldSince.IsZero() || !strings.Contains(j.Cause, "not mounted") {
				t.Errorf("%s: %s (%s), held since %v", name, j.State, j.Cause, j.HeldSince)
			}
		}
	})
}

func TestFewInstancesAreHeldAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c", "d", "e", "f"}
		w := newWorld(t, names...)
		most := 0
		w.backup = func(ctx context.Context, r job.BackupRequest) error {
			time.Sleep(time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			held := 0
			for _, n := range names {
				if active, _, err := w.current.ByInstance(n); err == nil && active != nil && active.Hold && active.Result == nil {
					held++
				}
			}
			most = max(most, held)
			return ctx.Err()
		}
		jobs := modes(t, w, job.Options{Jobs: 6, Held: 2}, names...)
		for n, j := range jobs {
			if j.State != model.Done {
				t.Errorf("%s: %s, %s", n, j.State, j.Cause)
			}
		}
		if most != 2 {
			t.Errorf("%d instances were held at once", most)
		}
	})
}

// Turns to hold are for instances that the agent stops: an instance that is stopped already, or
// that nothing holds, neither waits for a turn nor keeps others waiting, also after a restart.
func TestWhatStandsStillByItselfTakesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"running", "stopped-1", "stopped-2", "folder-1", "folder-2"}
		w := newWorld(t, names...)
		for _, n := range names[1:3] {
			w.instances[n].state = model.IsStopped
		}
		for _, n := range names[3:] {
			w.instances[n].state, w.instances[n].nobody = model.IsUnknown, true
		}
		meet := make(chan struct{}, len(names))
		hang := func(ctx context.Context, _ job.BackupRequest) error {
			meet <- struct{}{}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		w.backup = hang
		o := job.Options{Jobs: len(names), Held: 1}
		l := w.start(-1, o)
		if _, err := l.accept("r", names...); err != nil {
			t.Fatal(err)
		}
		for life := range 2 {
			for n := range names {
				select {
				case <-meet:
				case <-time.After(time.Hour):
					jobs, err := l.j.Active()
					for _, j := range jobs {
						t.Log(j.Instance, j.State, j.Cause)
					}
					t.Fatalf("life %d: %d backups are under way together, %v", life, n, err)
				}
			}
			l.kill()
			l.stop()
			l = w.start(-1, o)
		}
		l.kill()
		l.stop()
	})
}

// Jobs that are put off at the start, since somebody let their
// instances run, wait for their turn to hold them as all others do.
func TestFewInstancesAreHeldAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c", "d"}
		w := newWorld(t, names...)
		w.backup = func(ctx context.Context, _ job.BackupRequest) error { <-ctx.Done(); return context.Cause(ctx) }
		l := w.start(-1, job.Options{Jobs: 4})
		task, err := l.accept("r", names...)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range task.Jobs {
			l.until(ref.Job, model.Uploading)
		}
		l.kill()
		l.stop()
		w.mu.Lock()
		for _, n := range names {
			w.instances[n].state = model.IsRunning
		}
		most := 0
		w.backup = func(ctx context.Context, _ job.BackupRequest) error {
			time.Sleep(time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			held := 0
			for _, n := range names {
				if active, _, err := w.current.ByInstance(n); err == nil && active != nil && active.Hold && active.Result == nil {
					held++
				}
			}
			most = max(most, held)
			return ctx.Err()
		}
		w.mu.Unlock()
		l = w.start(-1, job.Options{Jobs: 4, Held: 1})
		for _, ref := range task.Jobs {
			if j := l.final(ref.Job); j.State != model.Done {
				t.Errorf("%s: %s, %s", j.Instance, j.State, j.Cause)
			}
		}
		l.stop()
		if most != 1 {
			t.Errorf("%d instances were held at once", most)
		}
	})
}

// A job that failed while it waited for its turn to hold has touched nothing but its snapshots.
func TestCancelWhileItWaitsToHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "first", "second")
		w.instances["second"].mode = model.ModePrecopy
		w.backup = func(ctx context.Context, r job.BackupRequest) error {
			if r.Instance == "first" {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}
		l := w.start(-1, job.Options{Jobs: 2, Held: 1, Precopy: job.Precopy{Rounds: 1}})
		var ids []string
		for _, n := range []string{"first", "second"} {
			task, err := l.accept("request-"+n, n)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, task.Jobs[0].Job)
			l.until(ids[0], model.Uploading)
		}
		time.Sleep(time.Minute)
		if j, err := l.j.Job(ids[1]); err != nil || j.State != model.Precopying {
			t.Fatalf("second: %+v, %v", j, err)
		}
		for _, i := range []int{1, 0} {
			if err := l.m.Cancel(ids[i]); err != nil {
				t.Fatal(err)
			}
			if j := l.final(ids[i]); j.State != model.Failed {
				t.Errorf("%s: %s", j.Instance, j.State)
			}
		}
		l.stop()
		for n, p := range w.instances {
			if p.state != model.IsRunning {
				t.Errorf("%s is %s", n, p.state)
			}
		}
		if len(w.snaps) > 0 || len(w.faults) > 0 {
			t.Error(w.snaps, w.faults)
		}
	})
}

// A frozen instance that a reboot has ended while it was to be
// powered down may have written until it ended: it is not released.
func TestStoppedByTheHostWhileReleasing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.fail = func(act, _ string) error {
			if act == "power-down" {
				return errors.New("the runtime is going down")
			}
			return nil
		}
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Releasing)
		time.Sleep(time.Minute)
		l.kill()
		l.stop()
		p := w.instances["phone"]
		p.state, w.fail, w.bootID = model.IsStopped, nil, "boot-2"
		p.count++
		l = w.start(-1, job.Options{})
		if j := l.final(id); j.State != model.Failed || !strings.Contains(j.Cause, "the host was restarted") {
			t.Errorf("%s (%s)", j.State, j.Cause)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// An instance that was released stays down when the journal is lost, also an
// instance that was stopped and not frozen: it may run on another host by now.
func TestReleasedStaysDownWithoutJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].mode = model.ModeStop
		l := w.start(-1, job.Options{})
		l.dieAt(crashpoint.WriteReleased + crashpoint.After)
		mustAccept(t, l, "r", "phone")
		<-l.dead
		l.stop()
		if err := os.Remove(w.journal); err != nil {
			t.Fatal(err)
		}
		l = w.start(-1, job.Options{})
		time.Sleep(time.Minute)
		l.stop()
		if p := w.instances["phone"]; p.state != model.IsStopped {
			t.Errorf("the instance is %s", p.state)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// A backup that has only to finish keeps no other from its turn; a round of pre-copy keeps it.
func TestTurnIsFreeWhileABackupFinishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "first", "second")
		w.instances["first"].mode = model.ModePrecopy
		finish := make(chan struct{})
		w.backup = func(_ context.Context, r job.BackupRequest) error {
			if r.Precopy != (r.Sent == nil) {
				t.Errorf("pre-copy %v, gives its turn back %v", r.Precopy, r.Sent != nil)
			}
			if r.Instance == "first" && !r.Precopy {
				r.Sent()
				<-finish
			}
			return nil
		}
		l := w.start(-1, job.Options{Jobs: 1, Precopy: job.Precopy{Rounds: 1}})
		task, err := l.accept("r", "first", "second")
		if err != nil {
			t.Fatal(err)
		}
		if j := l.final(task.Jobs[1].Job); j.State != model.Done {
			t.Errorf("the second is %s: %s", j.State, j.Cause)
		}
		if j, err := l.j.Job(task.Jobs[0].Job); err != nil || j.State != model.Uploading {
			t.Errorf("the first: %+v, %v", j, err)
		}
		close(finish)
		if j := l.final(task.Jobs[0].Job); j.State != model.Done {
			t.Errorf("the first is %s: %s", j.State, j.Cause)
		}
		l.stop()
	})
}
