package job_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/journal/journaltest"
	"holdfast/agent/model"
)

// TestOneDamagedRecord damages one record of a journal at a time,
// each kind of record in its way. The journal opens, names the record
// that it can't understand, and every other job goes on to its end.
func TestOneDamagedRecord(t *testing.T) {
	job1 := func(j map[string]string) string { return j["a"] }
	for _, tt := range []struct {
		name   string
		damage func(jobs map[string]string) func(tx *journaltest.Tx) error
		about  string // of the one unknown record; "" where a pointer was repaired without one
		stands bool   // the job of a is unknown
	}{
		{"job, damaged", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Damaged)
		}, "job ", true},
		{"job, unknown state", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Replaced(`"state":"acknowledged"`, `"state":"resharding"`))
		}, "job ", true},
		{"job, unknown kind", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Replaced(`"kind":"backup"`, `"kind":"clone"`))
		}, "job ", true},
		{"job, unknown policy", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Replaced(`"policy":"control-plane"`, `"policy":"nobody"`))
		}, "job ", true},
		{"job, unknown mode", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Replaced(`"state":"acknowledged"`, `"mode":"sleep","state":"acknowledged"`))
		}, "job ", true},
		{"job, of another id", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", job1(j), journaltest.Replaced(job1(j), "0123"))
		}, "job ", true},
		{"job, over", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("jobs", j["c"], journaltest.Damaged)
		}, "job ", false},
		{"task", func(j map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("tasks", j["task a"], journaltest.Damaged)
		}, "task ", false},
		{"recent report", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("recent", "", journaltest.Damaged)
		}, "report 1", false},
		{"refused report", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error {
				return tx.Bucket([]byte("refused")).Put([]byte("12345678"), []byte("{"))
			}
		}, "report ", false},
		{"waiting report", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error {
				return tx.Bucket([]byte("outbox")).Put([]byte("\x00\x00\x00\x00\x00\x00\x00\xf0"), []byte("{"))
			}
		}, "report 240", false},
		{"base", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error {
				return tx.Bucket([]byte("bases")).Put([]byte("a\x00data"), []byte("{"))
			}
		}, "bases ", false},
		{"leftover", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error {
				return tx.Bucket([]byte("leftovers")).Put([]byte("x\x00/y"), []byte("{"))
			}
		}, "leftovers ", false},
		{"accepted loss", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error { return tx.Bucket([]byte("accepted")).Put([]byte("a"), []byte("{")) }
		}, "an accepted loss", false},
		{"content", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("content", "a", journaltest.Damaged)
		}, "which backup the volumes come from", false},
		{"age of a task", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("finished", "", journaltest.Damaged)
		}, "finished ", false},
		{"last job of an instance", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("ended", "c", func(b *journaltest.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
		{"last backup of an instance", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("latest", "c", func(b *journaltest.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
		{"unfinished job of another instance", func(map[string]string) func(*journaltest.Tx) error {
			return func(tx *journaltest.Tx) error { return tx.Bucket([]byte("active")).Put([]byte("d"), []byte("nobody")) }
		}, "", false},
		{"lists of jobs", func(map[string]string) func(*journaltest.Tx) error {
			return journaltest.First("order", "", func(b *journaltest.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { oneDamagedRecord(t, tt.damage, tt.about, tt.stands) })
		})
	}
}

func oneDamagedRecord(t *testing.T, damage func(map[string]string) func(tx *journaltest.Tx) error, about string, stands bool) {
	w := newWorld(t, "a", "b", "c", "d")
	w.instances["a"].policy, w.instances["b"].policy = model.ReleaseByControlPlane, model.ReleaseByControlPlane
	l, ids := w.start(-1, job.Options{}), map[string]string{}
	for _, id := range []string{"a", "b", "c"} {
		task := mustAccept(t, l, "r-"+id, id)
		ids[id], ids["task "+id] = task.Jobs[0].Job, task.ID
	}
	l.until(ids["a"], model.Acknowledged)
	l.until(ids["b"], model.Acknowledged)
	l.final(ids["c"])
	l.stop()
	journaltest.Edit(t, w.journal, damage(ids))

	l = w.start(-1, job.Options{})
	if l.j.Aside() != "" {
		t.Fatalf("the whole journal was set aside: %s", l.j.Aside())
	}
	unknown, err := l.j.Unknown()
	if err != nil || (about != "") != (len(unknown) == 1) {
		t.Fatalf("unknown records: %+v, %v", unknown, err)
	}
	if about != "" && !strings.HasPrefix(unknown[0].About(), about) {
		t.Errorf("it is told of %q, want %q", unknown[0].About(), about)
	}
	jobs, _, err := l.j.List(journal.Query{All: true})
	if err != nil || len(jobs) < 2 {
		t.Errorf("the list has %d jobs, %v", len(jobs), err)
	}
	if _, _, err := l.j.Task(ids["task a"]); err != nil {
		t.Errorf("the task of a: %v", err)
	}
	if _, err := l.m.Refused(); err != nil {
		t.Error(err)
	}
	if _, err := l.m.Leftovers(); err != nil {
		t.Error(err)
	}
	if a, _ := l.j.Job(ids["a"]); stands {
		w.standsStill(t, l, a)
	} else {
		if a.State != model.Acknowledged || l.m.Release("a") != nil {
			t.Errorf("the job of a is %s", a.State)
		}
		if a := l.final(ids["a"]); a.State != model.Done || w.instances["a"].state != model.IsStopped {
			t.Errorf("a ends as %s, and is %s", a.State, w.instances["a"].state)
		}
	}
	if err := l.m.Release("b"); err != nil {
		t.Error(err)
	}
	if b := l.final(ids["b"]); b.State != model.Done || w.instances["b"].state != model.IsStopped {
		t.Errorf("b ends as %s: %s", b.State, b.Cause)
	}
	if d := l.final(mustAccept(t, l, "r-d", "d").Jobs[0].Job); d.State != model.Done {
		t.Errorf("a new job ends as %s: %s", d.State, d.Cause)
	}
	l.stop()
	l = w.start(-1, job.Options{}) // told of once, where no unfinished job is at stake
	if unknown, err = l.j.Unknown(); err != nil || len(unknown) > 0 {
		t.Errorf("at the next start: %+v, %v", unknown, err)
	}
	l.stop()
	for _, f := range w.faults {
		t.Error(f)
	}
}

// standsStill holds that nothing happens to an instance
// whose job is not understood, until the job is given up.
func (w *world) standsStill(t *testing.T, l *life, a *model.Job) {
	t.Helper()
	if a.State != model.Unknown || a.Instance != "a" || a.Tenant != "acme" || a.Task == "" || a.Cause == "" {
		t.Errorf("the job of a is %+v", a)
	}
	if w.instances["a"].state != model.IsFrozen {
		t.Errorf("a is %s", w.instances["a"].state)
	}
	var busy *model.BusyError
	if _, err := l.accept("more", "a"); !errors.As(err, &busy) || !slices.Equal(busy.Unknown, []string{"a"}) {
		t.Errorf("another command for a: %v", err)
	}
	for what, err := range map[string]error{"cancel": l.m.Cancel(a.ID), "release": l.m.Release("a"), "resume": l.m.Resume("a")} {
		if !errors.Is(err, model.ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.instances["a"].owner = true // from here on a person looks after the instance
	if _, err := l.m.Abandon("a"); err != nil {
		t.Fatal(err)
	}
	if a = l.final(a.ID); a.State != model.Failed || !strings.Contains(a.Cause, "gave the job up") || w.instances["a"].state != model.IsFrozen {
		t.Errorf("it ends as %s (%s), and the instance is %s", a.State, a.Cause, w.instances["a"].state)
	}
	if len(w.marks) > 1 { // the mark of b
		t.Errorf("notes that instances are held: %d", len(w.marks))
	}
	if _, err := l.m.Abandon("a"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("done twice: %v", err)
	}
}

// TestUnknownRecordIsUnderstoodLater: a program that
// knows the state takes the job up where the job was.
func TestUnknownRecordIsUnderstoodLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.instances["a"].policy = model.ReleaseByControlPlane
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "a").Jobs[0].Job
		l.until(id, model.Acknowledged)
		l.stop()
		journaltest.Edit(t, w.journal, journaltest.First("jobs", id, journaltest.Replaced(`"state":"acknowledged"`, `"state":"resharding"`)))
		l = w.start(-1, job.Options{})
		if j, err := l.j.Job(id); err != nil || j.State != model.Unknown || j.Result == nil || !j.Hold {
			t.Errorf("%+v, %v", j, err)
		}
		l.stop()
		// The record was kept as it was: the program of the next start knows the state.
		journaltest.Edit(t, w.journal, journaltest.First("unknown", "jobs", func(b *journaltest.Bucket, k, v []byte) error {
			var r journal.UnknownRecord
			if err := json.Unmarshal(v, &r); err != nil {
				return err
			}
			r.Value = bytes.Replace(r.Value, []byte("resharding"), []byte("acknowledged"), 1)
			text, err := json.Marshal(r)
			return errors.Join(err, b.Put(k, text))
		}))
		l = w.start(-1, job.Options{})
		if err := l.m.Release("a"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Done || w.instances["a"].state != model.IsStopped {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestAbandonOnTheWayBack: a job that can't let its instance go, as the runtime
// refuses for ever, can be given up; before that only a job on its way back can.
func TestAbandonOnTheWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.instances["a"].policy = model.ReleaseByControlPlane
		w.fail = func(act, _ string) error {
			if act == "thaw" {
				return errors.New("the engine refuses")
			}
			return nil
		}
		l := w.start(-1, job.Options{})
		id := mustAccept(t, l, "r", "a").Jobs[0].Job
		l.until(id, model.Acknowledged)
		if _, err := l.m.Abandon("a"); !errors.Is(err, model.ErrState) {
			t.Errorf("a job that waits for a release: %v", err)
		}
		if err := l.m.Resume("a"); err != nil {
			t.Fatal(err)
		}
		l.until(id, model.Resuming)
		w.mu.Lock()
		w.instances["a"].owner = true
		w.mu.Unlock()
		if _, err := l.m.Abandon("a"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(id); j.State != model.Failed || !strings.Contains(j.Cause, "it was resuming") || !strings.Contains(j.Cause, "may be frozen") || j.Hold {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		if w.instances["a"].state != model.IsFrozen || len(w.marks) > 0 {
			t.Errorf("it is %s, %d notes", w.instances["a"].state, len(w.marks))
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}
