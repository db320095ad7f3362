package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

// in runs a test in a bubble with one life of an agent over instances.
func in(t *testing.T, opts job.Options, names []string, test func(t *testing.T, w *world, l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, names...)
		l := w.start(-1, opts)
		test(t, w, l)
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

func mustAccept(t *testing.T, l *life, id string, instances ...string) *model.Task {
	t.Helper()
	task, err := l.accept(id, instances...)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// Invariant same-command-once, with fifty senders at once, over a restart, and with another body.
func TestInvariantSameCommandOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		l := w.start(-1, job.Options{})
		ids := make([]string, 50)
		var all sync.WaitGroup
		for i := range ids {
			all.Go(func() {
				task, err := l.accept("r", "a")
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = task.ID
			})
		}
		all.Wait()
		if ids = slices.Compact(ids); len(ids) != 1 {
			t.Errorf("one request made the tasks %v", ids)
		}
		if _, err := l.accept("r", "a", "b"); !errors.Is(err, model.ErrRequestReused) {
			t.Errorf("other body: %v", err)
		}
		// Another tenant's request of the same id is another command:
		// it must not learn of the first.
		task, err := l.m.Accept(job.Request{ID: "r", Digest: [32]byte{9}, Tenant: "other", Instances: []string{"b"}})
		if err != nil || task.ID == ids[0] {
			t.Errorf("other tenant: %v, %v", task, err)
		}
		l.stop()
		l = w.start(-1, job.Options{})
		if task := mustAccept(t, l, "r", "a"); task.ID != ids[0] {
			t.Errorf("after a restart: task %s, was %s", task.ID, ids[0])
		}
		l.final(task.Jobs[0].Job)
		l.stop()
	})
}

// Invariant nothing-lost: an instance with bytes that the
// backup lacks is not powered down, whoever let it run.
func TestInvariantNothingLost(t *testing.T) {
	opts := job.Options{}
	in(t, opts, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.answer = func(e model.Event) (string, error) {
			if e.Type == model.EventCompleted {
				return "", errors.New("no answer")
			}
			return "", nil
		}
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Reported)
		w.mu.Lock()
		w.instances["phone"].state = model.IsRunning // someone else
		w.instances["phone"].count++
		w.answer = nil
		w.mu.Unlock()
		j := l.final(id)
		if j.State != model.Failed || !strings.Contains(j.Cause, "running") || w.instances["phone"].state != model.IsRunning {
			t.Errorf("%s (%s), the instance is %s", j.State, j.Cause, w.instances["phone"].state)
		}
	})
}

// An acknowledgement that comes after hours finds the instance
// frozen all the time, and then it goes down.
func TestHeldUntilAcknowledged(t *testing.T) {
	in(t, job.Options{FrozenDeadline: time.Minute, JobDeadline: time.Hour}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.answer = func(e model.Event) (string, error) { return "", errors.New("no route to host") }
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Reported)
		time.Sleep(9 * time.Hour)
		if s := w.instances["phone"].state; s != model.IsFrozen {
			t.Errorf("before the acknowledgement it is %s", s)
		}
		w.mu.Lock()
		w.answer = nil
		w.mu.Unlock()
		if j := l.final(id); j.State != model.Done || w.instances["phone"].state != model.IsStopped {
			t.Errorf("%s (%s)", j.State, j.Cause)
		}
	})
}

func TestFrozenDeadlineFreesTheInstance(t *testing.T) {
	in(t, job.Options{FrozenDeadline: 10 * time.Minute, JobDeadline: time.Hour}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.backup = func(ctx context.Context, _ job.BackupRequest) error {
			<-ctx.Done()
			return fmt.Errorf("put pack: the store does not answer: %w", ctx.Err())
		}
		began := time.Now()
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		j := l.final(id)
		if took := time.Since(began); took < 10*time.Minute || took > 11*time.Minute {
			t.Errorf("it took %s", took)
		}
		if j.State != model.Failed || w.instances["phone"].state != model.IsRunning || len(w.snaps) > 0 {
			t.Errorf("%s, instance %s, snapshots %v", j.State, w.instances["phone"].state, w.snaps)
		}
		for _, words := range []string{"frozen", "10m0s", "the store does not answer"} {
			if !strings.Contains(j.Cause, words) {
				t.Errorf("cause %q misses %q", j.Cause, words)
			}
		}
		time.Sleep(3 * time.Second)
		last := w.events[len(w.events)-1]
		if last.Type != model.EventFailed || !strings.Contains(string(last.Data), "the store does not answer") {
			t.Errorf("last event %s %s", last.Type, last.Data)
		}
	})
}

// The frozen deadline counts on over a restart.
func TestFrozenDeadlineOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := job.Options{FrozenDeadline: 10 * time.Minute}
		w := newWorld(t, "phone")
		w.backup = func(ctx context.Context, _ job.BackupRequest) error { <-ctx.Done(); return ctx.Err() }
		l := w.start(-1, opts)
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Uploading)
		time.Sleep(6 * time.Minute)
		l.kill()
		l.stop()
		began := time.Now()
		l = w.start(-1, opts)
		if j := l.final(id); j.State != model.Failed || time.Since(began) > 5*time.Minute {
			t.Errorf("%s after %s (%s)", j.State, time.Since(began), j.Cause)
		}
		l.stop()
	})
}

func TestCancel(t *testing.T) {
	in(t, job.Options{}, []string{"a", "b"}, func(t *testing.T, w *world, l *life) {
		w.backup = func(ctx context.Context, _ job.BackupRequest) error { <-ctx.Done(); return context.Cause(ctx) }
		task := mustAccept(t, l, "r", "a", "b")
		uploading, queued := task.Jobs[0].Job, task.Jobs[1].Job
		l.until(uploading, model.Uploading)
		for _, id := range []string{queued, uploading, uploading} {
			if err := l.m.Cancel(id); err != nil {
				t.Error(err)
			}
		}
		for _, id := range []string{uploading, queued} {
			if j := l.final(id); j.State != model.Failed || !strings.HasPrefix(j.Cause, "cancelled on request") {
				t.Errorf("%s (%s)", j.State, j.Cause)
			}
		}
		if err := l.m.Cancel(uploading); err != nil {
			t.Errorf("cancel what is over: %v", err)
		}
		if err := l.m.Cancel("none"); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("cancel an unknown job: %v", err)
		}
	})
}

func TestReleaseByControlPlane(t *testing.T) {
	in(t, job.Options{}, []string{"a", "b"}, func(t *testing.T, w *world, l *life) {
		for _, p := range w.instances {
			p.policy = model.ReleaseByControlPlane
		}
		if err := l.m.Release("a"); !errors.Is(err, model.ErrState) {
			t.Errorf("release without a job: %v", err)
		}
		task := mustAccept(t, l, "r", "a", "b")
		for _, ref := range task.Jobs {
			l.until(ref.Job, model.Acknowledged)
		}
		time.Sleep(time.Hour)
		for name, p := range w.instances {
			if p.state != model.IsFrozen {
				t.Errorf("%s is %s before anybody asked", name, p.state)
			}
		}
		if err := l.m.Cancel(task.Jobs[0].Job); !errors.Is(err, model.ErrState) {
			t.Errorf("cancel a stored backup: %v", err)
		}
		for range 2 {
			if err := l.m.Release("a"); err != nil && !errors.Is(err, model.ErrState) {
				t.Error(err)
			}
		}
		if err := l.m.Resume("b"); err != nil {
			t.Error(err)
		}
		for i, want := range []model.RuntimeState{model.IsStopped, model.IsRunning} {
			j := l.final(task.Jobs[i].Job)
			if got := w.instances[j.Instance].state; j.State != model.Done || got != want {
				t.Errorf("%s: %s, the instance is %s", j.Instance, j.State, got)
			}
		}
	})
}

// A report that is refused for good holds the instance; a release sends it again.
func TestHeldAfterRefusal(t *testing.T) {
	in(t, job.Options{}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.answer = func(e model.Event) (string, error) {
			if e.Type == model.EventCompleted {
				return "422 unknown backup", nil
			}
			return "", nil
		}
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Held)
		j, _ := l.j.Job(id)
		if !strings.Contains(j.Cause, "422 unknown backup") || w.instances["phone"].state != model.IsFrozen {
			t.Errorf("cause %q, instance %s", j.Cause, w.instances["phone"].state)
		}
		w.mu.Lock()
		w.answer = nil
		w.mu.Unlock()
		if err := l.m.Release("phone"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Done || w.instances["phone"].state != model.IsStopped {
			t.Errorf("%s (%s)", j.State, j.Cause)
		}
	})
}

// Jobs run in the order of acceptance, as many at once as allowed;
// more than the queue holds are refused.
func TestQueue(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	in(t, job.Options{Jobs: 2, Queue: 3}, names, func(t *testing.T, w *world, l *life) {
		var mu sync.Mutex
		var order []string
		atOnce, most := 0, 0
		w.backup = func(_ context.Context, r job.BackupRequest) error {
			mu.Lock()
			if !slices.Contains(order, r.Instance) {
				order = append(order, r.Instance)
			}
			atOnce++
			most = max(most, atOnce)
			mu.Unlock()
			time.Sleep(time.Minute)
			mu.Lock()
			atOnce--
			mu.Unlock()
			return nil
		}
		first := mustAccept(t, l, "r1", "a", "b", "c", "d", "e")
		time.Sleep(time.Second)
		if _, err := l.accept("r2", "f"); !errors.Is(err, model.ErrQueueFull) {
			t.Errorf("a sixth job: %v", err)
		}
		if active, queued := l.m.Counts(); active != 2 || queued != 3 {
			t.Errorf("%d active, %d queued", active, queued)
		}
		var busy *model.BusyError
		if _, err := l.accept("r3", "c", "a"); !errors.As(err, &busy) && !errors.Is(err, model.ErrQueueFull) {
			t.Errorf("busy instances: %v", err)
		}
		for _, ref := range first.Jobs {
			l.final(ref.Job)
		}
		// Pairs begin in one instant, so each is in any order.
		slices.Sort(order[:2])
		slices.Sort(order[2:4])
		if got := strings.Join(order, ""); got != "abcde" || most != 2 {
			t.Errorf("order %s, %d at once", got, most)
		}
		mustAccept(t, l, "r2", "f")
		if _, err := l.accept("r4", "f"); !errors.As(err, &busy) || !slices.Equal(busy.Instances, []string{"f"}) {
			t.Errorf("busy instance: %v", err)
		}
		l.m.Drain()
		if _, err := l.accept("r5", "a"); !errors.Is(err, job.ErrDraining) {
			t.Errorf("while draining: %v", err)
		}
	})
}

// A job that can reach a stored backup within the drain time does;
// the rest waits for the next start, its instance running.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "quick", "slow", "queued")
		w.backup = func(ctx context.Context, r job.BackupRequest) error {
			d := 10 * time.Second
			if r.Instance == "slow" {
				d = time.Hour
			}
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		w.answer = func(e model.Event) (string, error) { return "", errors.New("no answer") }
		l := w.start(-1, job.Options{Jobs: 2, DrainTimeout: 5 * time.Minute})
		task := mustAccept(t, l, "r", "quick", "slow", "queued")
		l.until(task.Jobs[0].Job, model.Uploading)
		l.until(task.Jobs[1].Job, model.Uploading)
		began := time.Now()
		l.stop()
		if took := time.Since(began); took < 5*time.Minute || took > 6*time.Minute {
			t.Errorf("the drain took %s", took)
		}
		j, err := journal.Open(w.journal)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			state model.State
			is    model.RuntimeState
		}{{model.Reported, model.IsFrozen}, {model.Accepted, model.IsRunning}, {model.Accepted, model.IsRunning}} {
			got, err := j.Job(task.Jobs[i].Job)
			if err != nil || got.State != want.state || w.instances[got.Instance].state != want.is {
				t.Errorf("%s: %s, the instance is %s, %v", got.Instance, got.State, w.instances[got.Instance].state, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		w.backup, w.answer = nil, nil
		l = w.start(-1, job.Options{Jobs: 2})
		for _, ref := range task.Jobs {
			if got := l.final(ref.Job); got.State != model.Done {
				t.Errorf("%s: %s (%s)", got.Instance, got.State, got.Cause)
			}
		}
		l.stop()
	})
}

// An instance that someone else froze, or that is gone, is not touched.
func TestForeignStatesAreLeftAlone(t *testing.T) {
	in(t, job.Options{}, []string{"frozen", "missing", "stopped"}, func(t *testing.T, w *world, l *life) {
		w.instances["frozen"].state, w.instances["missing"].state, w.instances["stopped"].state = model.IsFrozen, model.IsMissing, model.IsStopped
		task := mustAccept(t, l, "r", "frozen", "missing", "stopped")
		for i, want := range []model.State{model.Failed, model.Failed, model.Done} {
			if j := l.final(task.Jobs[i].Job); j.State != want {
				t.Errorf("%s: %s (%s)", j.Instance, j.State, j.Cause)
			}
		}
		if s := w.instances["frozen"].state; s != model.IsFrozen {
			t.Errorf("it is %s now", s)
		}
	})
}

// Progress is reported at most once a second, and never before an event that must not be lost.
func TestProgressReports(t *testing.T) {
	in(t, job.Options{}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.backup = func(_ context.Context, r job.BackupRequest) error {
			for i := range 100 {
				r.Progress(model.Progress{BytesSent: uint64(i)})
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		updates, stop := l.m.Watch(mustAccept(t, l, "r", "phone").ID)
		defer stop()
		u := <-updates
		l.final(u.Job.ID)
		var last time.Time
		n := 0
		for _, e := range w.events {
			if e.Type != model.EventProgress {
				continue
			}
			if n++; !last.IsZero() && e.Time.Sub(last) < time.Second {
				t.Errorf("%s after the one before", e.Time.Sub(last))
			}
			last = e.Time
		}
		if n < 20 || n > 31 {
			t.Errorf("%d progress reports in 30 seconds", n)
		}
		if w.events[0].Type != model.EventStarted {
			t.Errorf("first event %s", w.events[0].Type)
		}
	})
}

// A refused report stays until an operator sends it again or drops
// it. The instance that is held for it goes on when it is taken.
func TestRefusedReports(t *testing.T) {
	in(t, job.Options{}, []string{"phone", "other"}, func(t *testing.T, w *world, l *life) {
		refuse := func(kind string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.answer = func(e model.Event) (string, error) {
				if e.Type == kind {
					return "410 Gone", nil
				}
				return "", nil
			}
		}
		refuse(model.EventCompleted)
		id := mustAccept(t, l, "r", "phone").Jobs[0].Job
		l.until(id, model.Held)
		all, err := l.j.Refused()
		if err != nil || len(all) != 1 || all[0].Type != model.EventCompleted || all[0].Instance != "phone" || !strings.Contains(all[0].Reason, "the control plane refused the report: 410 Gone") || all[0].Since.IsZero() {
			t.Fatalf("%+v, %v", all, err)
		}
		if err := l.m.DropRefused(all[0].Seq); !errors.Is(err, model.ErrState) || !strings.Contains(err.Error(), "phone") {
			t.Errorf("dropped, while an instance is held for it: %v", err)
		}
		// Sent again and refused again, it is held again.
		time.Sleep(time.Minute)
		if err := l.m.RetryRefused(all[0].Seq); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		l.until(id, model.Held)
		if j, err := l.j.Job(id); err != nil || j.Took(model.Reported, model.Held) > 30*time.Second {
			t.Errorf("%s from the second report to its refusal, %v", j.Took(model.Reported, model.Held), err)
		}
		refuse("")
		if err := l.m.RetryRefused(all[0].Seq); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Done || w.instances["phone"].state != model.IsStopped {
			t.Errorf("%s (%s)", j.State, j.Cause)
		}
		i := slices.IndexFunc(w.events, func(e model.Event) bool { return e.Type == model.EventCompleted })
		if i < 0 || w.events[i].ID != all[0].ID || w.events[i].Seq != all[0].Seq {
			t.Errorf("it was sent again as %+v, and was %+v", w.events[i], all[0].Event)
		}

		// A release sends the report of a held instance anew; then the refused report is gone. A
		// refused report of a finished job, which holds no instance, is kept, and can be dropped.
		refuse(model.EventCompleted)
		id = mustAccept(t, l, "r2", "other").Jobs[0].Job
		l.until(id, model.Held)
		refuse(model.EventReleased)
		if err := l.m.Release("other"); err != nil {
			t.Fatal(err)
		}
		l.final(id)
		time.Sleep(time.Minute)
		all, err = l.j.Refused()
		if err != nil || len(all) != 1 || all[0].Type != model.EventReleased {
			t.Fatalf("%+v, %v", all, err)
		}
		if err := l.m.DropRefused(all[0].Seq); err != nil {
			t.Error(err)
		}
		for _, do := range []func(uint64) error{l.m.DropRefused, l.m.RetryRefused, l.m.GiveUp} {
			if err := do(all[0].Seq); !errors.Is(err, model.ErrNotFound) {
				t.Errorf("one that is not there: %v", err)
			}
		}
		if n, err := l.j.RefusedReports(); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}
