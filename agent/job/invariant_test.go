package job_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// way is one course that a job can take, given by the world's behaviour and by its end.
type way struct {
	name    string
	opts    job.Options
	prepare func(w *world)
	drive   func(l *life, id string) // after the command was accepted; nil: wait for the end
	again   func(w *world)           // before the next life
	end     model.State
	down    bool // the instance is powered down at the end
}

var ways = []way{
	{name: "goes well", end: model.Done, down: true},
	{
		name: "the store refuses", end: model.Failed,
		prepare: func(w *world) {
			w.backup = func(context.Context, job.BackupRequest) error { return errors.New("the store has no space left") }
		},
	},
	{
		name: "put off by a shutdown", end: model.Done, down: true,
		prepare: func(w *world) {
			w.backup = func(ctx context.Context, _ job.BackupRequest) error { <-ctx.Done(); return context.Cause(ctx) }
		},
		drive: func(l *life, id string) { l.until(id, model.Uploading); l.cancel(); <-l.ended },
		again: func(w *world) { w.backup = nil },
	},
	{
		name: "with pre-copy", end: model.Done, down: true, opts: job.Options{Held: 1, Precopy: job.Precopy{Rounds: 2}},
		prepare: func(w *world) { w.instances["phone"].mode = model.ModePrecopy },
	},
	{
		name: "stopped, and the store refuses", end: model.Failed, opts: job.Options{Precopy: job.Precopy{Rounds: 1}},
		prepare: func(w *world) {
			w.instances["phone"].mode = model.ModeStop
			w.backup = func(_ context.Context, r job.BackupRequest) error {
				if r.Precopy {
					return nil
				}
				return errors.New("the store has no space left")
			}
		},
	},
	{
		name: "stopped", end: model.Done, down: true,
		prepare: func(w *world) { w.instances["phone"].mode = model.ModeStop },
	},
	{
		name: "live", end: model.Done,
		prepare: func(w *world) { w.instances["phone"].mode = model.ModeLive },
	},
	{
		name: "live, with bases", end: model.Done, opts: job.Options{Bases: job.Bases{Keep: true}},
		prepare: func(w *world) { w.instances["phone"].mode = model.ModeLive },
	},
	{
		name: "with pre-copy and bases", end: model.Done, down: true,
		opts:    job.Options{Held: 1, Precopy: job.Precopy{Rounds: 2}, Bases: job.Bases{Keep: true}},
		prepare: func(w *world) { w.instances["phone"].mode = model.ModePrecopy },
	},
	{
		name: "with rounds that read in place", end: model.Done, down: true,
		opts:    job.Options{Held: 1, Precopy: job.Precopy{Rounds: 2}, Bases: job.Bases{Keep: true}},
		prepare: func(w *world) { w.instances["phone"].mode, w.instances["phone"].warm = model.ModePrecopy, true },
	},
	{
		name: "refused, then resumed", end: model.Done,
		prepare: func(w *world) {
			w.answer = func(e model.Event) (string, error) {
				if e.Type == model.EventCompleted {
					return "410 Gone", nil
				}
				return "", nil
			}
		},
		drive: func(l *life, id string) {
			l.until(id, model.Held)
			if !l.isDead() {
				if err := l.m.Resume("phone"); err != nil {
					l.w.t.Error(err)
				}
				l.final(id)
			}
		},
	},
}

const journalLost = "the journal is lost"

// world after a crash: what happens to the host before the agent comes back.
var aftermaths = map[string]func(w *world){
	"same host": func(*world) {},
	"host restarted": func(w *world) {
		w.bootID = "boot-2"
		for _, p := range w.instances {
			p.state = model.IsRunning // by the runtime's restart policy
			p.count++
		}
	},
	journalLost: func(w *world) {
		if err := os.Truncate(w.journal, 5000); err != nil {
			w.t.Error(err)
		}
	},
	"someone else resumed it": func(w *world) {
		for _, p := range w.instances {
			if p.state == model.IsFrozen {
				p.state = model.IsRunning
				p.count++
			}
		}
	},
}

func p0(w *world) *phone { return w.instances["phone"] }

// runWay runs one course with a death at the chosen hit of a crash
// point (-1: none) and returns the points hit.
func runWay(t *testing.T, way way, crashAt int, aftermath string) []string {
	var points []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		if way.prepare != nil {
			way.prepare(w)
		}
		opts := way.opts
		l := w.start(crashAt, opts)
		task, err := l.accept("request-1", "phone")
		var id string
		switch {
		case err != nil:
			t.Fatal(err)
		case task != nil:
			id = task.Jobs[0].Job
			if way.drive != nil {
				way.drive(l, id)
			} else {
				l.final(id)
			}
		}
		died := l.isDead()
		l.stop()
		points = slices.Clone(l.points)
		if died {
			aftermaths[aftermath](w)
		}
		if way.again != nil {
			way.again(w)
		}

		held := len(w.marks) > 0
		l = w.start(-1, opts)
		if died && aftermath == journalLost {
			task = nil
			// Every held instance is let go, and nothing
			// is released by the lost journal's knowledge.
			for {
				jobs, err := l.j.Active()
				if err != nil {
					t.Fatal(err)
				}
				if len(jobs) == 0 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if p := w.instances["phone"]; p.state == model.IsFrozen || p.state == model.IsStopped && p.downs == 0 && held {
				t.Errorf("after the loss of the journal the instance is %s", p.state)
			}
		}
		// Invariant same-command-once: the command, sent again because
		// its answer was lost, makes nothing new.
		again, err := l.accept("request-1", "phone")
		if err != nil {
			t.Fatal(err)
		}
		if task != nil && again.ID != task.ID {
			t.Errorf("same-command-once: task %s, then %s", task.ID, again.ID)
		}
		id = again.Jobs[0].Job
		for held := false; ; time.Sleep(100 * time.Millisecond) {
			j, err := l.j.Job(id)
			if err != nil {
				t.Fatal(err)
			}
			if j.State == model.Held && !held {
				held = true
				if err := l.m.Resume("phone"); err != nil {
					// Whoever resumed it otherwise may have been seen meanwhile.
					if now, jerr := l.j.Job(id); jerr != nil || now.State == model.Held {
						t.Error(err, jerr)
					}
				}
			}
			if j.State.Final() {
				break
			}
		}
		j := l.final(id)
		time.Sleep(5 * time.Second) // the last events go out
		bases, err := l.j.Bases("")
		if err != nil {
			t.Fatal(err)
		}
		l.stop()
		if opts.Bases.Keep {
			// One more start: after it every snapshot that the journal does not name is gone.
			l = w.start(-1, opts)
			l.stop()
		}
		for _, b := range bases {
			if _, stands := w.snaps[b.Ref.Path]; !stands || j.State == model.Done && way.down && p0(w).state == model.IsStopped {
				t.Errorf("base %+v: stands %v, the job is %s", b, stands, j.State)
			}
			delete(w.snaps, b.Ref.Path)
		}

		p := w.instances["phone"]
		for _, f := range w.faults {
			t.Error(f)
		}
		if len(w.snaps) > 0 || len(w.marks) > 0 {
			t.Errorf("leaked snapshots %v, notes %v", w.snaps, w.marks)
		}
		if p.state == model.IsFrozen {
			t.Errorf("the instance is left frozen, the job is %s", j.State)
		}
		if p.state == model.IsStopped && j.State != model.Done {
			t.Errorf("the instance is left stopped, the job is %s", j.State)
		}
		if p.downs > 1 {
			t.Errorf("powered down %d times", p.downs)
		}
		if p.state == model.IsStopped && !slices.Contains(w.backups["phone"], p.count) {
			t.Errorf("nothing-lost: it stopped at %d, backups have %v", p.count, w.backups["phone"])
		}
		for pack, n := range w.packs {
			if n > 1 && aftermath != journalLost {
				t.Errorf("pack %s was sent %d times", pack, n)
			}
		}
		undisturbed := !died || aftermath == "same host"
		if undisturbed && (j.State != way.end || (p.state == model.IsStopped) != way.down) {
			t.Errorf("ended %s (%s) with the instance %s", j.State, j.Cause, p.state)
		}
		if j.State == model.Failed && j.Cause == "" {
			t.Error("failed without a cause")
		}
		if aftermath != journalLost {
			checkEvents(t, w, j)
		}
	})
	return points
}

// checkEvents holds the order of the reports, and that the last one says how the job ended.
func checkEvents(t *testing.T, w *world, j *model.Job) {
	t.Helper()
	var seq uint64
	types := []string{}
	for _, e := range w.events {
		if e.Seq == 0 || e.Seq == seq {
			continue // progress, or sent again after its answer was lost
		}
		if e.Seq < seq {
			t.Errorf("event %d (%s) after %d", e.Seq, e.Type, seq)
		}
		seq = e.Seq
		types = append(types, e.Type)
	}
	got := strings.Join(types, " ")
	want := model.EventFailed
	if j.State == model.Done && j.Mode == model.ModeLive {
		want = model.EventCompleted
	} else if j.State == model.Done && !j.ResumeAsked {
		want = model.EventReleased
	} else if j.State == model.Done {
		want = model.EventResumed
	}
	if !strings.HasSuffix(got, want) {
		t.Errorf("%s, but the events are %s", j.State, got)
	}
	if strings.Count(got, model.EventStarted) > 1 {
		t.Errorf("started twice: %s", got)
	}
}

// Invariant journal-first: every course, a death at every hit of a
// crash point on it, and each thing that can happen to the host before
// the agent comes back. It holds all the invariants of this package.
func TestInvariantJournalFirst(t *testing.T) {
	seen := map[string]bool{}
	runs := 0
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			points := runWay(t, way, -1, "same host")
			for i, point := range points {
				seen[point] = true
				for aftermath := range aftermaths {
					runs++
					t.Run(fmt.Sprintf("%d %s %s", i, point, aftermath), func(t *testing.T) {
						for _, p := range runWay(t, way, i, aftermath) {
							seen[p] = true
						}
					})
				}
			}
		})
	}
	for _, way := range restoreWays {
		t.Run("restore "+way.name, func(t *testing.T) {
			for i, point := range runRestoreWay(t, way, -1) {
				seen[point] = true
				runs++
				t.Run(fmt.Sprintf("%d %s", i, point), func(t *testing.T) {
					for _, p := range runRestoreWay(t, way, i) {
						seen[p] = true
					}
				})
			}
		})
	}
	for _, way := range asideWays {
		t.Run(way.name, func(t *testing.T) {
			for i, point := range runAsideWay(t, way, -1) {
				seen[point] = true
				runs++
				t.Run(fmt.Sprintf("%d %s", i, point), func(t *testing.T) {
					for _, p := range runAsideWay(t, way, i) {
						seen[p] = true
					}
				})
			}
		})
	}
	for _, point := range crashpoint.List() {
		if strings.HasPrefix(point, "job.") && !seen[point] {
			t.Errorf("%s is listed and was never reached", point)
		}
		delete(seen, point)
	}
	for point := range seen {
		t.Errorf("%s is not in crashpoint.List", point)
	}
	t.Logf("%d deaths", runs)
}
