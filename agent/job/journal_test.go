package job_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
)

// Finished tasks are forgotten by age and by count, unfinished ones
// and those with undelivered reports never.
func TestRetention(t *testing.T) {
	opts := job.Options{KeepFor: 24 * time.Hour, KeepJobs: 2}
	in := func(f func(w *world, l *life)) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			l := w.start(-1, opts)
			f(w, l)
			l.stop()
		})
	}
	known := func(l *life, id string) bool {
		_, _, err := l.j.Task(id)
		return err == nil
	}
	in(func(_ *world, l *life) {
		var ids []string
		for _, r := range []string{"r1", "r2", "r3"} {
			task := mustAccept(t, l, r, "a")
			l.final(task.Jobs[0].Job)
			time.Sleep(time.Minute)
			ids = append(ids, task.ID)
			l.w.instances["a"].state = model.IsRunning
		}
		// The count is looked at when a task ends, when its last report is still on its way.
		task := mustAccept(t, l, "r4", "a")
		l.final(task.Jobs[0].Job)
		if known(l, ids[0]) || !known(l, ids[2]) || !known(l, task.ID) {
			t.Errorf("by count: first %v, third %v, last %v", known(l, ids[0]), known(l, ids[2]), known(l, task.ID))
		}
		time.Sleep(25 * time.Hour)
		last := mustAccept(t, l, "r5", "b")
		l.final(last.Jobs[0].Job)
		if known(l, task.ID) || !known(l, last.ID) {
			t.Errorf("by age: old %v, new %v", known(l, task.ID), known(l, last.ID))
		}
		if latest := mustAccept(t, l, "r1", "a"); latest.ID == ids[0] {
			t.Error("a forgotten request still has its task")
		}
	})
	in(func(w *world, l *life) {
		w.answer = func(e model.Event) (string, error) {
			if e.Instance == "a" && e.Type == model.EventReleased {
				return "", errors.New("no answer")
			}
			return "", nil
		}
		old := mustAccept(t, l, "r1", "a")
		l.final(old.Jobs[0].Job)
		time.Sleep(48 * time.Hour)
		l.final(mustAccept(t, l, "r2", "b").Jobs[0].Job)
		if !known(l, old.ID) {
			t.Error("a task with a report to deliver was forgotten")
		}
	})
}

// TestDamagedJournalIsSetAside damages a journal in many ways: it opens, as
// it was or as a new one, and the damaged file is kept for people to look at.
func TestDamagedJournalIsSetAside(t *testing.T) {
	dir := memoryDir(t)
	var whole []byte
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c", "d", "e", "f", "g", "h")
		modes(t, w, job.Options{Jobs: 8}, "a", "b", "c", "d", "e", "f", "g", "h")
		var err error
		if whole, err = os.ReadFile(w.journal); err != nil {
			t.Fatal(err)
		}
	})
	page := os.Getpagesize()
	pages := len(whole) / page
	damages := map[string]func(b []byte) []byte{
		"cut to nothing but a byte": func(b []byte) []byte { return b[:1] },
		"cut in its first page":     func(b []byte) []byte { return b[:page/2] },
		"no journal at all":         func(b []byte) []byte { return bytes.Repeat([]byte("not a journal\n"), 2000) },
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 2; i <= pages; i++ {
		damages[fmt.Sprintf("cut after page %d", i)] = func(b []byte) []byte { return b[:i*page] }
		damages[fmt.Sprintf("page %d is zero", i-1)] = func(b []byte) []byte { clear(b[(i-1)*page:][:page]); return b }
		damages[fmt.Sprintf("page %d is another", i-1)] = func(b []byte) []byte { copy(b[(i-1)*page:], b[rng.IntN(pages)*page:][:page]); return b }
	}
	for i := range 300 {
		damages[fmt.Sprintf("bytes %d", i)] = func(b []byte) []byte {
			for range 1 + rng.IntN(20) {
				b[2*page+rng.IntN(len(b)-2*page)] ^= byte(1 + rng.IntN(255))
			}
			return b
		}
	}
	set := 0
	for name, damage := range damages {
		path := filepath.Join(dir, "journal")
		if err := os.WriteFile(path, damage(bytes.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := j.Active(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		left, err := filepath.Glob(path + ".damaged-*")
		if err != nil || (len(left) == 1) != (j.Aside() != "") {
			t.Errorf("%s: %v beside the journal (%v), it says %q", name, left, err, j.Aside())
		}
		if j.Aside() != "" {
			set++
		}
		if err := j.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range append(left, path) {
			if err := os.Remove(f); err != nil {
				t.Error(err)
			}
		}
	}
	if set < len(damages)/8 { // most of the file is free pages
		t.Errorf("%d of %d were set aside", set, len(damages))
	}
	t.Logf("%d of %d were set aside, %d pages", set, len(damages), pages)
}
