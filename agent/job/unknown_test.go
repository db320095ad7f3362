package job_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// edit changes the records of a journal that nobody has open.
func edit(t *testing.T, path string, do func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// first changes the first record of a bucket whose key has the prefix.
func first(bucket, prefix string, change func(b *bbolt.Bucket, k, v []byte) error) func(tx *bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		k, v := b.Cursor().Seek([]byte(prefix))
		if k == nil || !strings.HasPrefix(string(k), prefix) {
			return fmt.Errorf("%s has no record %q", bucket, prefix)
		}
		return change(b, slices.Clone(k), slices.Clone(v))
	}
}

func damaged(b *bbolt.Bucket, k, v []byte) error { return b.Put(k, v[:len(v)/2]) }

func replaced(old, with string) func(b *bbolt.Bucket, k, v []byte) error {
	return func(b *bbolt.Bucket, k, v []byte) error {
		changed := strings.Replace(string(v), old, with, 1)
		if changed == string(v) {
			return fmt.Errorf("%s has no %s", v, old)
		}
		return b.Put(k, []byte(changed))
	}
}

// TestOneDamagedRecord damages one record of a journal at a time,
// each kind of record in its way. The journal opens, names the record
// that it can't understand, and every other job goes on to its end.
func TestOneDamagedRecord(t *testing.T) {
	job1 := func(j map[string]string) string { return j["a"] }
	for _, tt := range []struct {
		name   string
		damage func(jobs map[string]string) func(tx *bbolt.Tx) error
		about  string // of the one unknown record; "" where a pointer was repaired without one
		stands bool   // the job of a is unknown
	}{
		{"job, damaged", func(j map[string]string) func(*bbolt.Tx) error { return first("jobs", job1(j), damaged) }, "job ", true},
		{"job, unknown state", func(j map[string]string) func(*bbolt.Tx) error {
			return first("jobs", job1(j), replaced(`"state":"acknowledged"`, `"state":"resharding"`))
		}, "job ", true},
		{"job, unknown kind", func(j map[string]string) func(*bbolt.Tx) error {
			return first("jobs", job1(j), replaced(`"kind":"backup"`, `"kind":"clone"`))
		}, "job ", true},
		{"job, unknown policy", func(j map[string]string) func(*bbolt.Tx) error {
			return first("jobs", job1(j), replaced(`"policy":"control-plane"`, `"policy":"nobody"`))
		}, "job ", true},
		{"job, unknown mode", func(j map[string]string) func(*bbolt.Tx) error {
			return first("jobs", job1(j), replaced(`"state":"acknowledged"`, `"mode":"sleep","state":"acknowledged"`))
		}, "job ", true},
		{"job, of another id", func(j map[string]string) func(*bbolt.Tx) error {
			return first("jobs", job1(j), replaced(job1(j), "0123"))
		}, "job ", true},
		{"job, over", func(j map[string]string) func(*bbolt.Tx) error { return first("jobs", j["c"], damaged) }, "job ", false},
		{"task", func(j map[string]string) func(*bbolt.Tx) error { return first("tasks", j["task a"], damaged) }, "task ", false},
		{"recent report", func(map[string]string) func(*bbolt.Tx) error { return first("recent", "", damaged) }, "report 1", false},
		{"refused report", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("refused")).Put([]byte("12345678"), []byte("{")) }
		}, "report ", false},
		{"waiting report", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("outbox")).Put([]byte("\x00\x00\x00\x00\x00\x00\x00\xf0"), []byte("{"))
			}
		}, "report 240", false},
		{"base", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("bases")).Put([]byte("a\x00data"), []byte("{")) }
		}, "bases ", false},
		{"leftover", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("leftovers")).Put([]byte("x\x00/y"), []byte("{")) }
		}, "leftovers ", false},
		{"accepted loss", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("accepted")).Put([]byte("a"), []byte("{")) }
		}, "an accepted loss", false},
		{"content", func(map[string]string) func(*bbolt.Tx) error { return first("content", "a", damaged) }, "which backup the volumes come from", false},
		{"age of a task", func(map[string]string) func(*bbolt.Tx) error { return first("finished", "", damaged) }, "finished ", false},
		{"last job of an instance", func(map[string]string) func(*bbolt.Tx) error {
			return first("ended", "c", func(b *bbolt.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
		{"last backup of an instance", func(map[string]string) func(*bbolt.Tx) error {
			return first("latest", "c", func(b *bbolt.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
		{"unfinished job of another instance", func(map[string]string) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("active")).Put([]byte("d"), []byte("nobody")) }
		}, "", false},
		{"lists of jobs", func(map[string]string) func(*bbolt.Tx) error {
			return first("order", "", func(b *bbolt.Bucket, k, _ []byte) error { return b.Put(k, []byte("nobody")) })
		}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { oneDamagedRecord(t, tt.damage, tt.about, tt.stands) })
		})
	}
}

func oneDamagedRecord(t *testing.T, damage func(map[string]string) func(tx *bbolt.Tx) error, about string, stands bool) {
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
	edit(t, w.journal, damage(ids))

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
	jobs, _, err := l.j.List(job.Query{All: true})
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
		edit(t, w.journal, first("jobs", id, replaced(`"state":"acknowledged"`, `"state":"resharding"`)))
		l = w.start(-1, job.Options{})
		if j, err := l.j.Job(id); err != nil || j.State != model.Unknown || j.Result == nil || !j.Hold {
			t.Errorf("%+v, %v", j, err)
		}
		l.stop()
		// The record was kept as it was: the program of the next start knows the state.
		edit(t, w.journal, first("unknown", "jobs", func(b *bbolt.Bucket, k, v []byte) error {
			var r job.UnknownRecord
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

// TestVersionsOfAJournal holds the one rule for versions: a
// number counts, however long, and everything else is damage.
func TestVersionsOfAJournal(t *testing.T) {
	for text, want := range map[string]error{
		"99": job.ErrNewer, "99999999999999999999999999": job.ErrNewer, strings.Repeat("7", 5000): job.ErrNewer,
		"1": job.ErrOlder, "2": job.ErrOlder,
		"": nil, "0": nil, "03": nil, "+3": nil, "-1": nil, "3 ": nil, "3.1": nil, "three": nil, "\x00\xff": nil,
	} {
		t.Run(fmt.Sprintf("%.10q", text), func(t *testing.T) {
			path := t.TempDir() + "/journal"
			j, err := job.OpenJournal(path)
			if err = errors.Join(err, j.Close()); err != nil {
				t.Fatal(err)
			}
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte(text)) })
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, peekErr := job.Peek(path)
			j, err = job.OpenJournal(path)
			if want == nil {
				if err != nil || j.Aside() == "" || peekErr == nil {
					t.Fatalf("a version that is none: %v, aside %q, a look says %v", err, j.Aside(), peekErr)
				}
				if err := j.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, want) || !errors.Is(peekErr, want) || !strings.Contains(err.Error(), "holdfast drain --wait") {
				t.Errorf("%.300v; a look says %.300v", err, peekErr)
			}
			if len(err.Error()) > 600 {
				t.Errorf("a refusal of %d bytes", len(err.Error()))
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Error("the refused journal was changed")
			}
		})
	}
	path := t.TempDir() + "/journal"
	j, err := job.OpenJournal(path)
	if err = errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("meta")) })
	if j, err = job.OpenJournal(path); err != nil || j.Aside() == "" {
		t.Fatalf("records without a version: %v, aside %q", err, j.Aside())
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
