package job_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// afterPanic checks that a panic leaves no instance frozen or stopped,
// leaves no snapshots, takes no other job with it, and does not stay untold.
func afterPanic(t *testing.T, w *world, l *life, opts job.Options, id, other string) *model.Job {
	t.Helper()
	j, beside := l.final(id), l.final(other)
	time.Sleep(5 * time.Second) // the last events go out
	l.stop()
	// Snapshots that could not be removed are leftovers of the next start.
	w.fail, w.backup, w.restore, w.explode = nil, nil, nil, nil
	opts.Bases = job.Bases{}
	l = w.start(-1, opts)
	l.stop()
	for _, f := range w.faults {
		t.Error(f)
	}
	if w.panics == 0 {
		t.Error("nobody was told of the panic")
	}
	if beside.State != model.Done {
		t.Errorf("the other job ended %s (%s)", beside.State, beside.Cause)
	}
	p := w.instances["phone"]
	if p.state == model.IsFrozen || p.state == model.IsStopped && j.State != model.Done {
		t.Errorf("the instance is left %s, the job is %s (%s)", p.state, j.State, j.Cause)
	}
	if p.downs > 1 || p.state == model.IsStopped && !slices.Contains(w.backups["phone"], p.count) {
		t.Errorf("powered down %d times at %d, backups have %v", p.downs, p.count, w.backups["phone"])
	}
	if len(w.snaps) > 0 || len(w.marks) > 0 {
		t.Errorf("leaked snapshots %v, notes %v", w.snaps, w.marks)
	}
	told := slices.ContainsFunc(w.events, func(e model.Event) bool {
		return e.Job == id && (e.Type == model.EventFailed || e.Type == model.EventRestoreFailed)
	})
	if told != (j.State == model.Failed) {
		t.Errorf("the job ended %s, a report of failure was sent: %v", j.State, told)
	}
	if j.State == model.Failed && !strings.Contains(j.Cause, "panic") {
		t.Errorf("failed for %q", j.Cause)
	}
	return j
}

// ofJob tells whether a crash point is hit by the job itself, and
// not by the command or by the delivery of its reports.
func ofJob(point string) bool {
	return !strings.HasPrefix(point, crashpoint.WriteAcknowledged) && !strings.HasPrefix(point, crashpoint.WriteTask)
}

// TestPanicAnywhere lets each crash point of each course panic once. The job fails, or has
// gone so far that it ends well; its instance is let go, and the job beside it goes on.
func TestPanicAnywhere(t *testing.T) {
	for _, way := range ways {
		if way.drive != nil || way.end != model.Done {
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			for at := 1; ; at++ {
				reached := ""
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "phone", "other")
					if way.prepare != nil {
						way.prepare(w)
					}
					w.instances["other"].mode = w.instances["phone"].mode
					opts := way.opts
					opts.Jobs = 2
					l := w.start(-1, opts)
					beside, err := l.accept("request-2", "other")
					if err != nil {
						t.Fatal(err)
					}
					l.final(beside.Jobs[0].Job) // so that the points belong to one job
					var hits atomic.Int64
					w.explode = func(point string) bool {
						if !ofJob(point) || hits.Add(1) != int64(at) {
							return false
						}
						reached = point
						return true
					}
					task, err := l.accept("request-1", "phone")
					if err != nil {
						t.Fatal(err)
					}
					id := task.Jobs[0].Job
					l.final(id)
					if reached == "" {
						l.stop()
						return
					}
					afterPanic(t, w, l, opts, id, beside.Jobs[0].Job)
				})
				if t.Failed() {
					t.Fatalf("after a panic at hit %d, %s", at, reached)
				}
				if reached == "" {
					if at < 20 {
						t.Errorf("only %d crash points were hit", at)
					}
					return
				}
			}
		})
	}
}

// TestPanicOfParts lets each part of the host panic, every time it
// is asked to do something for one instance.
func TestPanicOfParts(t *testing.T) {
	explode := func(context.Context, job.BackupRequest) error { panic("in the engine") }
	for _, c := range []struct {
		name, act string
		mode      model.Mode
		times     int // 0: always
		backup    func(context.Context, job.BackupRequest) error
		end       model.State
	}{
		{name: "look", act: "state", end: model.Failed},
		{name: "freeze", act: "freeze", end: model.Failed},
		{name: "stop", act: "stop", mode: model.ModeStop, end: model.Failed},
		{name: "note", act: "note", end: model.Failed},
		{name: "snapshot", act: "snapshot", end: model.Failed},
		{name: "snapshot of a round", act: "snapshot", mode: model.ModePrecopy, end: model.Failed},
		{name: "removal of a snapshot", act: "remove-snapshot", end: model.Failed},
		{name: "engine", backup: explode, end: model.Failed},
		{name: "engine, live", mode: model.ModeLive, backup: explode, end: model.Failed},
		{name: "engine, in a round", mode: model.ModePrecopy, backup: explode, end: model.Failed},
		{name: "signature", act: "sign", end: model.Failed},
		{name: "power-down", act: "power-down", end: model.Failed},
		{name: "power-down, once", act: "power-down", times: 1, end: model.Done},
		{name: "engine, and three thaws", act: "thaw", times: 3, backup: explode, end: model.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone", "other")
				w.instances["phone"].mode = c.mode
				left := c.times
				w.fail = func(act, instance string) error {
					if act != c.act || instance != "phone" || c.times > 0 && left == 0 {
						return nil
					}
					left--
					panic("in " + act)
				}
				if c.backup != nil {
					w.backup = func(ctx context.Context, r job.BackupRequest) error {
						if r.Instance == "phone" {
							return c.backup(ctx, r)
						}
						return nil
					}
				}
				opts := job.Options{Jobs: 2, Precopy: job.Precopy{Rounds: 2}}
				l := w.start(-1, opts)
				task, err := l.accept("request-1", "phone", "other")
				if err != nil {
					t.Fatal(err)
				}
				j := afterPanic(t, w, l, opts, task.Jobs[0].Job, task.Jobs[1].Job)
				if j.State != c.end {
					t.Errorf("ended %s (%s), want %s", j.State, j.Cause, c.end)
				}
			})
		})
	}
}

// TestPanicAtStart: a job that was interrupted and panics when it is taken up
// again ends as failed, with its instance running, and the agent becomes ready.
func TestPanicAtStart(t *testing.T) {
	for _, state := range []model.State{model.Freezing, model.Frozen, model.Snapshotting, model.Snapshotted, model.Uploading, model.Stored, model.Reported} {
		for _, act := range []string{"state", "engine"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone", "other")
				opts := job.Options{Jobs: 2}
				l := w.start(-1, opts)
				l.dieAt("job.write-" + string(state) + crashpoint.After)
				task, err := l.accept("request-1", "phone")
				if err != nil {
					t.Fatal(err)
				}
				l.final(task.Jobs[0].Job)
				if !l.isDead() {
					t.Fatalf("%s was not reached", state)
				}
				l.stop()
				first := true
				w.fail = func(did, instance string) error {
					if did == act && instance == "phone" && first {
						first = false
						panic("in " + act)
					}
					return nil
				}
				w.backup = func(_ context.Context, r job.BackupRequest) error {
					if act == "engine" && r.Instance == "phone" {
						panic("in the engine")
					}
					return nil
				}
				l = w.start(-1, opts) // it returns when the agent is ready
				beside, err := l.accept("request-2", "other")
				if err != nil {
					t.Fatal(err)
				}
				if act == "engine" && (state == model.Stored || state == model.Reported) {
					w.panics++ // the engine has nothing to do any more
				}
				afterPanic(t, w, l, opts, task.Jobs[0].Job, beside.Jobs[0].Job)
			})
			if t.Failed() {
				t.Fatalf("in the state %s, of %s", state, act)
			}
		}
	}
}

// TestPanicOfRestore lets each crash point of a restore panic
// once: all volumes are the old ones, or all are the backup's.
func TestPanicOfRestore(t *testing.T) {
	for at := 1; ; at++ {
		reached := ""
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "phone", "other")
			w.instances["phone"].state = model.IsStopped
			w.backups["phone"] = []int{7}
			w.disks["/phone/data"], w.disks["/phone/media"] = disk{tree: "old data", count: 1}, disk{tree: "old media", count: 1}
			opts := job.Options{Jobs: 2}
			l := w.start(-1, opts)
			beside, err := l.accept("request-2", "other")
			if err != nil {
				t.Fatal(err)
			}
			l.final(beside.Jobs[0].Job)
			var hits atomic.Int64
			w.explode = func(point string) bool {
				if !ofJob(point) || hits.Add(1) != int64(at) {
					return false
				}
				reached = point
				return true
			}
			task, err := l.send(job.Request{Kind: model.KindRestore, ID: "request-1", Tenant: "acme", Instances: []string{"phone"}})
			if err != nil {
				t.Fatal(err)
			}
			j := l.final(task.Jobs[0].Job)
			time.Sleep(5 * time.Second)
			l.stop()
			for _, f := range w.faults {
				t.Error(f)
			}
			if reached != "" && w.panics == 0 {
				t.Error("nobody was told of the panic")
			}
			data, media := w.disks["/phone/data"], w.disks["/phone/media"]
			if old := data.tree == "old data"; old != (media.tree == "old media") || data.count != media.count || len(w.disks) != 2+len(w.keptCounts()) ||
				len(w.keptCounts()) > 0 == old {
				t.Errorf("the job ended %s (%s); there are %v", j.State, j.Cause, w.disks)
			}
		})
		if t.Failed() {
			t.Fatalf("after a panic at hit %d, %s", at, reached)
		}
		if reached == "" {
			if at < 10 {
				t.Errorf("only %d crash points were hit", at)
			}
			return
		}
	}
}
