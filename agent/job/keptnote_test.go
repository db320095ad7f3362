package job_test

import (
	"errors"
	"fmt"
	"maps"
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

// hadOld are the trees of the content that a course of TestKeptIsAdopted begins with.
var hadOld = []string{"old data", "old media"}

// lostWay is a course in which the journal is lost when the agent dies.
type lostWay struct {
	name  string
	steps func() []asideStep
}

var lostWays = []lostWay{
	{"kept and removed", func() []asideStep { return []asideStep{prepared(7), removed} }},
	{"kept and put back", func() []asideStep { return []asideStep{prepared(7), putBack(3)} }},
	{"in place order", func() []asideStep { return []asideStep{first7, released, newer(12), brought(12)} }},
}

// takesOut are the acts before and after which a tree may lie at another name.
var takesOut = []string{
	crashpoint.Place, crashpoint.WriteRestored, crashpoint.SetAside, crashpoint.WriteRemoving, crashpoint.RemoveAside, crashpoint.TakeOut, crashpoint.WriteRestoring,
	crashpoint.RemoveOld, crashpoint.Discard,
}

// TestKeptIsAdopted kills the agent at each crash point of a course, and takes its journal. The
// next life knows all content that lies aside, keeps it for its whole time, and then removes it.
func TestKeptIsAdopted(t *testing.T) {
	for _, way := range lostWays {
		t.Run(way.name, func(t *testing.T) {
			points := runLostWay(t, way, -1)
			for i, point := range points {
				act := strings.TrimSuffix(strings.TrimSuffix(point, crashpoint.Before), crashpoint.After)
				if !slices.Contains(takesOut, act) {
					continue
				}
				t.Run(fmt.Sprint(i, " ", point), func(t *testing.T) { runLostWay(t, way, i) })
			}
		})
	}
}

func runLostWay(t *testing.T, way lostWay, crashAt int) (points []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		had(3)(w)
		opts := job.Options{KeepAside: 3 * time.Hour, InPlaceOrder: true}
		l := w.start(crashAt, opts)
		for _, step := range way.steps() {
			for try := 0; !l.isDead() && try < 100; try++ {
				_ = step.do(l)
				for range 1000 {
					if l.isDead() || l.idle() {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if l.isDead() || step.done(l) {
					break
				}
			}
		}
		points = slices.Clone(l.points)
		l.kill()
		l.stop()
		w.mu.Lock()
		left, begun := trees(w), false // a removal, which is of all trees of a job
		for _, n := range w.notes {
			begun = begun || n.Removing
		}
		w.mu.Unlock()
		if !begun && strings.HasPrefix(way.name, "kept") {
			for _, old := range hadOld {
				if _, there := left[old]; !there {
					t.Errorf("%s was destroyed before its removal was noted: %v", old, left)
				}
			}
		}
		w.lose()
		l = w.start(-1, opts)
		time.Sleep(5 * time.Minute)
		known := map[string]model.Aside{}
		all, err := l.j.Kept()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.Adopted.IsZero() || s.Tenant != "acme" || s.Removing {
				t.Errorf("adopted as %+v", s)
			}
			for _, v := range s.Volumes {
				known[v.Place.Old] = s
			}
		}
		w.mu.Lock()
		for path, d := range w.disks {
			s, is := known[d.tree]
			switch n, noted := w.notes[d.tree]; {
			case !strings.Contains(path, "/.") && is:
				t.Errorf("%s is in its place, and is kept", d.tree)
			case !strings.Contains(path, "/.") || !noted: // the part that a restore had built
			case !is || !strings.Contains(path, "/.holdfast-kept-"):
				t.Errorf("%s lies at %s, known: %v", d.tree, path, is)
			case n.Removing != s.Partial && n.Removing:
				t.Errorf("%s may be a part of a tree, and the record says %+v", d.tree, s)
			}
		}
		w.mu.Unlock()
		if now := trees(w); !maps.Equal(left, now) {
			t.Errorf("after the loss of the journal %v, then %v", left, now)
		}
		time.Sleep(170 * time.Minute)
		if now := trees(w); !maps.Equal(left, now) {
			t.Errorf("it was not kept for its whole time: %v, then %v", left, now)
		}
		time.Sleep(20 * time.Minute)
		for tree := range trees(w) {
			if _, is := known[tree]; is {
				t.Errorf("%s is kept for longer than its time", tree)
			}
		}
		if all, err := l.j.Kept(); err != nil || len(all) > 0 {
			t.Errorf("kept: %+v, %v", all, err)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
	return points
}

// trees has the counts of all trees on the disks.
func trees(w *world) map[string]int {
	all := map[string]int{}
	for _, d := range w.disks {
		all[d.tree] = d.count
	}
	return all
}

// TestAdoptedIsPutBack: content that was adopted goes back to its place as other kept content does,
// unless a removal of it had begun.
func TestAdoptedIsPutBack(t *testing.T) {
	for name, c := range map[string]struct {
		back  bool // the journal is set back, and not lost
		begun bool
	}{"lost": {}, "set back": {back: true}, "lost, removal begun": {begun: true}, "set back, removal begun": {back: true, begun: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				had(3)(w)
				l := w.start(-1, job.Options{})
				prepared(7).do(l) //nolint:errcheck // looked at below
				time.Sleep(5 * time.Minute)
				l.stop()
				before, err := os.ReadFile(w.journal)
				if err != nil || !w.holds(7) {
					t.Fatal(err, w.disks)
				}
				l = w.start(-1, job.Options{})
				if c.begun {
					w.fail = func(act, _ string) error {
						if act == "discard" {
							return errors.New("device or resource busy")
						}
						return nil
					}
					if err := l.m.RemoveKept("phone", ""); err == nil {
						t.Error("removed")
					}
				}
				l.stop()
				w.fail = nil
				w.lose()
				if c.back {
					if err := os.WriteFile(w.journal, before, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				l = w.start(-1, job.Options{})
				time.Sleep(5 * time.Minute)
				task, err := l.m.PutBack("phone", "")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				if done := j.State == model.Done && w.holds(3); done == c.begun || c.begun && !strings.Contains(j.Cause, "may not be whole") {
					t.Errorf("ended %s (%s), on the disks: %v", j.State, j.Cause, w.disks)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestUnknownTreesStay: a tree that has the name of kept content, and of which nothing tells whose
// it is, is told of and never removed; and a record of the journal that names another tree as the
// same content is not changed.
func TestUnknownTreesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{7}
		had(3)(w)
		w.disks["/phone/.holdfast-kept-x-data"] = disk{tree: "unknown", count: 1}
		l := w.start(-1, job.Options{})
		prepared(7).do(l) //nolint:errcheck // looked at below
		time.Sleep(5 * time.Minute)
		if strays := l.m.StrayKept(); !slices.Equal(strays, []string{"/phone/.holdfast-kept-x-data"}) {
			t.Errorf("strays %q", strays)
		}
		w.mu.Lock()
		n := w.notes["old data"]
		w.disks["/phone/.holdfast-kept-y-data"] = disk{tree: "another", count: 2}
		w.notes["another"] = n
		w.mu.Unlock()
		time.Sleep(90 * time.Minute)
		all, err := l.j.Kept()
		if err != nil || len(all) != 1 || len(all[0].Volumes) != 2 || !all[0].Adopted.IsZero() {
			t.Errorf("kept: %+v, %v", all, err)
		}
		time.Sleep(100 * time.Hour)
		l.stop()
		now := trees(w)
		if now["unknown"] != 1 {
			t.Errorf("on the disks: %v", now)
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}
