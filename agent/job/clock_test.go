package job_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// TestClockStepsAhead: the wall clock of the host steps ten days ahead, or back,
// in each state that a job waits in. No job fails for that, no request id is
// forgotten, and the reported time in which the instance stood still is right.
func TestClockStepsAhead(t *testing.T) {
	for _, step := range []time.Duration{10 * 24 * time.Hour, -10 * 24 * time.Hour, 100 * 24 * time.Hour} {
		for _, at := range []model.State{model.Accepted, model.Frozen, model.Uploading, model.Reported, model.Acknowledged} {
			for _, restart := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "a", "b")
					w.instances["a"].mode, w.instances["b"].mode = model.ModeFrozen, model.ModeFrozen
					w.instances["a"].policy = model.ReleaseByControlPlane
					opts := job.Options{FrozenDeadline: time.Hour, JobDeadline: 12 * time.Hour, DrainTimeout: time.Hour, Jobs: 1}
					l := w.start(-1, opts)
					old := mustAccept(t, l, "old", "b")
					l.final(old.Jobs[0].Job)
					w.mu.Lock()
					w.instances["b"].state = model.IsRunning
					stepped := false
					jump := func(s model.State) { // the lock is held
						if s == at && !stepped {
							stepped, w.skew = true, step
						}
					}
					w.backup = func(context.Context, job.BackupRequest) error {
						time.Sleep(10 * time.Second)
						return nil
					}
					w.observe = func(j *model.Job) {
						w.mu.Lock()
						defer w.mu.Unlock()
						if j.Instance == "a" {
							jump(j.State)
						}
					}
					w.mu.Unlock()
					task := mustAccept(t, l, "r", "a")
					id := task.Jobs[0].Job
					l.until(id, model.Acknowledged)
					if restart {
						l.stop()
						l = w.start(-1, opts)
					}
					j, err := l.j.Job(id)
					if err != nil {
						t.Fatal(err)
					}
					if s := j.FreezeSeconds(l.j.Up()); s < 30 || s > 60 {
						t.Errorf("%s at %s: frozen for %.0f s", step, at, s)
					}
					if err := l.m.Release("a"); err != nil {
						t.Fatal(err)
					}
					if j := l.final(id); j.State != model.Done || j.FreezeSeconds(l.j.Up()) > 60 {
						t.Errorf("%s at %s: %s (%s), frozen for %.0f s", step, at, j.State, j.Cause, j.FreezeSeconds(l.j.Up()))
					}
					if again := mustAccept(t, l, "old", "b"); again.ID != old.ID {
						t.Errorf("%s at %s: the request of an hour ago is forgotten", step, at)
					}
					l.stop()
				})
			}
		}
	}
}

// TestJournalClock: the clock goes on over restarts, stands still over reboots, and never falls.
func TestJournalClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		begin := func() *life { return w.start(-1, job.Options{}) }
		work := func(l *life, id string) {
			l.final(mustAccept(t, l, id, "a").Jobs[0].Job)
			w.instances["a"].state = model.IsRunning
		}
		l := begin()
		work(l, "r1")
		time.Sleep(time.Hour)
		work(l, "r2")
		before := l.j.Up()
		l.stop()
		time.Sleep(time.Hour) // the agent is down, and the host is up
		l = begin()
		if got := l.j.Up() - before; got < time.Hour || got > time.Hour+time.Minute {
			t.Errorf("over a restart of an hour the clock went on by %s", got)
		}
		work(l, "r3")
		before = l.j.Up()
		l.stop()
		time.Sleep(time.Hour) // the host is down
		w.bootID, w.booted = "boot-2", time.Now().Add(-time.Minute)
		l = begin()
		if got := l.j.Up() - before; got < 0 || got > 2*time.Minute {
			t.Errorf("over a reboot the clock went on by %s", got)
		}
		before = l.j.Up()
		l.stop()
		w.booted = time.Now() // a machine that was set back to an earlier instant of this boot
		l = begin()
		if got := l.j.Up() - before; got < 0 {
			t.Errorf("the clock fell by %s", -got)
		}
		l.stop()
	})
}

// TestListPages: pages of a list hold each job once, newest first,
// and a tenant's pages hold the tenant's jobs.
func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		l := w.start(-1, job.Options{})
		for _, name := range []string{"a", "b", "a", "a", "b", "a", "a"} {
			task, err := l.send(job.Request{ID: time.Now().String(), Tenant: "acme", Instances: []string{name}, Kind: model.KindBackup})
			if err != nil {
				t.Fatal(err)
			}
			l.final(task.Jobs[0].Job)
			w.instances[name].state = model.IsRunning
			time.Sleep(time.Minute)
		}
		for _, c := range []struct {
			q    journal.Query
			want int
		}{
			{journal.Query{All: true}, 7},
			{journal.Query{Tenant: "acme"}, 7},
			{journal.Query{Tenant: "acm"}, 0},
			{journal.Query{Tenant: "other"}, 0},
			{journal.Query{}, 0},
			{journal.Query{All: true, Instance: "a"}, 5},
			{journal.Query{Tenant: "acme", Instance: "b"}, 2},
			{journal.Query{Tenant: "other", Instance: "b"}, 0},
			{journal.Query{All: true, Instance: "c"}, 0},
			{journal.Query{All: true, Active: true}, 0},
			{journal.Query{All: true, Task: "none"}, 0},
		} {
			for limit := range 8 {
				q, pages := c.q, 0
				q.Limit = limit
				var all []*model.Job
				for {
					list, next, err := l.j.List(q)
					if err != nil || limit > 0 && len(list) > limit || pages > 8 {
						t.Fatalf("%+v: %d jobs on page %d, %v", q, len(list), pages, err)
					}
					all = append(all, list...)
					if pages++; next == 0 {
						break
					}
					q.Before = next
				}
				for i := 1; i < len(all); i++ {
					if all[i].Seq >= all[i-1].Seq {
						t.Errorf("%+v: %d after %d", c.q, all[i].Seq, all[i-1].Seq)
					}
				}
				if len(all) != c.want {
					t.Errorf("%+v by %d: %d jobs, want %d", c.q, limit, len(all), c.want)
				}
			}
		}
		l.stop()
	})
}

// TestRetentionByBytes: the records of finished tasks are bounded by their size.
func TestRetentionByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		l := w.start(-1, job.Options{KeepBytes: 5000})
		var first, last *model.Task
		for i := range 20 {
			last = mustAccept(t, l, time.Duration(i).String(), "a")
			l.final(last.Jobs[0].Job)
			w.instances["a"].state = model.IsRunning
			if first == nil {
				first = last
			}
			time.Sleep(time.Minute)
		}
		list, _, err := l.j.List(journal.Query{All: true})
		if err != nil || len(list) == 0 || len(list) > 6 {
			t.Errorf("%d jobs, %v", len(list), err)
		}
		if _, _, err := l.j.Task(first.ID); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("the first task: %v", err)
		}
		if _, _, err := l.j.Task(last.ID); err != nil {
			t.Errorf("the last task: %v", err)
		}
		l.stop()
	})
}
