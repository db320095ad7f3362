package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// asideStep is one thing that an operator or the control
// plane does, again after a crash, until it is done.
type asideStep struct {
	do   func(l *life) error
	done func(l *life) bool
}

// command runs a call of the Manager, which may be the end of the process.
func (l *life) command(do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = do()
	}()
	<-done
	return err
}

// idle tells that the instance has no unfinished job.
func (l *life) idle() bool {
	active, _, err := l.j.ByInstance("phone")
	return err == nil && active == nil
}

// holds tells that both volumes hold the count.
func (w *world) holds(count int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disks["/phone/data"].count == count && w.disks["/phone/media"].count == count
}

// keptCounts has the counts of the content that lies aside, sorted.
func (w *world) keptCounts() (counts []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, d := range w.disks {
		if strings.Contains(path, "/.") {
			counts = append(counts, d.count)
		}
	}
	slices.Sort(counts)
	return counts
}

func prepared(count int) asideStep {
	return asideStep{
		do:   func(l *life) error { _, err := l.prepare("request-1", "phone"); return err },
		done: func(l *life) bool { return l.idle() && l.w.holds(count) },
	}
}

// written has the instance write: the count grows by 100 in each volume, once.
func written(from int) asideStep {
	return asideStep{
		do: func(l *life) error {
			l.w.mu.Lock()
			defer l.w.mu.Unlock()
			for _, path := range []string{"/phone/data", "/phone/media"} {
				if d := l.w.disks[path]; d.count == from {
					l.w.disks[path] = disk{tree: d.tree, count: from + 100}
				}
			}
			return nil
		},
		done: func(l *life) bool { return l.w.holds(from + 100) },
	}
}

func putBack(count int) asideStep {
	return asideStep{
		do:   func(l *life) error { return l.command(func() error { _, err := l.m.PutBack("phone", ""); return err }) },
		done: func(l *life) bool { return l.idle() && l.w.holds(count) },
	}
}

var removed = asideStep{
	do:   func(l *life) error { return l.command(func() error { return l.m.RemoveKept("phone", "") }) },
	done: func(l *life) bool { all, err := l.j.Kept(); return err == nil && len(all) == 0 },
}

// expired waits until the kept content goes by itself.
var expired = asideStep{
	do:   func(*life) error { time.Sleep(time.Hour); return nil },
	done: removed.done,
}

// released notes that the instance was powered down on its backup, so that the volumes that it left
// are in a backup for certain.
var released = asideStep{
	do: func(l *life) error { return l.command(func() error { return noteReleased(l.j, "phone") }) },
	done: func(l *life) bool {
		c, err := l.j.Content("phone")
		return err == nil && c.Released
	},
}

// newer makes a backup elsewhere, after which the disks have room for one copy only.
func newer(count int) asideStep {
	return asideStep{
		do: func(l *life) error {
			l.w.mu.Lock()
			defer l.w.mu.Unlock()
			l.w.small = true
			if !slices.Contains(l.w.backups["phone"], count) {
				l.w.backups["phone"] = append(l.w.backups["phone"], count)
			}
			return nil
		},
		done: func(*life) bool { return true },
	}
}

// brought prepares the content of a newer backup, as
// often as it takes; a failure changes volumes to none.
func brought(count int) asideStep {
	n := 0
	return asideStep{
		do: func(l *life) error {
			n++
			_, err := l.prepare(fmt.Sprint("again-", n), "phone")
			return err
		},
		done: func(l *life) bool { return l.idle() && l.w.holds(count) },
	}
}

// asideWay is a course of what becomes of content that a restore has replaced.
type asideWay struct {
	name  string
	steps func() []asideStep
	count int   // of both volumes at the end
	kept  []int // the counts that lie aside at the end
}

// held has a volume refuse to be taken out, until a prepare has failed for that.
func held(volume string) asideStep {
	failed := false
	return asideStep{
		do: func(l *life) error {
			l.w.mu.Lock()
			l.w.fail = func(act, of string) error {
				if act == "take-out" && of == volume && !failed {
					failed = true
					return errors.New("device or resource busy")
				}
				return nil
			}
			l.w.mu.Unlock()
			_, err := l.prepare("held", "phone")
			return err
		},
		done: func(l *life) bool { return l.idle() && failed && (l.w.holds(7) || l.w.holds(12)) },
	}
}

// first7 restores the first backup to a host on which nothing is.
var first7 = asideStep{
	do: func(l *life) error {
		l.w.mu.Lock()
		if l.w.disks["/phone/data"].tree == "old data" {
			clear(l.w.disks)
		}
		l.w.mu.Unlock()
		_, err := l.prepare("request-1", "phone")
		return err
	},
	done: func(l *life) bool { return l.idle() && l.w.holds(7) },
}

var asideWays = []asideWay{
	{name: "kept, put back, and what that replaced is removed", steps: func() []asideStep { return []asideStep{prepared(7), written(7), putBack(3), removed} }, count: 3},
	{name: "kept, and goes after its time", steps: func() []asideStep { return []asideStep{prepared(7), written(7), expired} }, count: 107},
	{name: "in place order", steps: func() []asideStep { return []asideStep{first7, released, newer(12), brought(12)} }, count: 12},
	{
		name: "in place order, and a volume can't be moved at first", steps: func() []asideStep { return []asideStep{first7, released, newer(12), held("media"), brought(12)} }, count: 12,
	},
	{name: "kept and put back twice", steps: func() []asideStep { return []asideStep{prepared(7), putBack(3), written(3), putBack(7)} }, count: 7, kept: []int{103, 103}},
}

// runAsideWay runs one course with a death at the chosen hit of a crash point (-1: none).
func runAsideWay(t *testing.T, way asideWay, crashAt int) (points []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		had(3)(w)
		opts := job.Options{KeepAside: 30 * time.Hour, InPlaceOrder: true}
		l := w.start(crashAt, opts)
		died := false
		alive := func() {
			if l.isDead() && !died {
				died = true
				l.stop()
				points = slices.Clone(l.points)
				l = w.start(-1, opts)
			}
		}
		for i, step := range way.steps() {
			for try := 0; ; try++ {
				alive()
				err := step.do(l)
				if l.isDead() {
					continue
				}
				for range 1000 { // its work ends
					if l.isDead() || l.idle() {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if alive(); step.done(l) {
					break
				}
				if try > 100 {
					t.Fatalf("step %d is not done: %v, %v", i, err, w.disks)
				}
			}
		}
		time.Sleep(5 * time.Minute) // the leftovers of a crash are tended to
		all, err := l.j.Kept()
		if err != nil {
			t.Fatal(err)
		}
		if !died {
			points = slices.Clone(l.points)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
		if !w.holds(way.count) || fmt.Sprint(w.keptCounts()) != fmt.Sprint(way.kept) {
			t.Errorf("on the disks: %v", w.disks)
		}
		named := 0
		for _, s := range all {
			for _, v := range s.Volumes {
				named++
				if d := w.disks[v.Place.Aside]; d.tree != v.Place.Old || !strings.Contains(v.Place.Aside, "/.holdfast-kept-"+s.Job+"-") {
					t.Errorf("the journal names %+v, on the disks are %v", v, w.disks)
				}
			}
		}
		if named != len(way.kept) {
			t.Errorf("the journal names %d trees, %d lie aside", named, len(way.kept))
		}
	})
	return points
}

// TestReplacedIsReported: the report of a restore names
// the replaced content, and tells whether it is kept.
func TestReplacedIsReported(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(w *world)
		want *model.Replaced
		kept int
	}{
		"nothing was there": {func(*world) {}, nil, 0},
		"content":           {had(3), &model.Replaced{Files: 2, Bytes: 6, Kept: true}, 2},
		"empty folders": {func(w *world) {
			for _, v := range []string{"data", "media"} {
				w.disks["/phone/"+v] = disk{tree: "old " + v, empty: true}
			}
		}, &model.Replaced{}, 0},
		"one of them empty": {func(w *world) {
			had(3)(w)
			w.disks["/phone/media"] = disk{tree: "old media", empty: true}
		}, &model.Replaced{Files: 1, Bytes: 3, Kept: true}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				c.set(w)
				l := w.start(-1, job.Options{})
				task, err := l.prepare("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				time.Sleep(5 * time.Second)
				l.stop()
				if j.State != model.Done {
					t.Fatalf("%s: %s", j.State, j.Cause)
				}
				if got := j.Restore.Replaced; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) && (got == nil || c.want == nil || *got != *c.want) {
					t.Errorf("replaced %+v, want %+v", got, c.want)
				}
				if got := len(w.keptCounts()); got != c.kept {
					t.Errorf("on the disks: %v", w.disks)
				}
				last := w.events[len(w.events)-1]
				if said := strings.Contains(string(last.Data), `"replaced":{`); said != (c.want != nil) || last.Type != "holdfast.restore.completed" {
					t.Errorf("the report %s says %s", last.Type, last.Data)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestPutBackIsRefused: a put-back that can't be whole changes nothing, and says why.
func TestPutBackIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(w *world) // before the prepare
		then  func(t *testing.T, w *world, l *life)
		cause string
		err   error
	}{
		"it runs":         {had(3), func(_ *testing.T, w *world, _ *life) { w.instances["phone"].state = model.IsRunning }, "stop it", nil},
		"not known":       {had(3), func(_ *testing.T, w *world, _ *life) { w.instances["phone"].state = model.IsUnknown }, "can't tell", nil},
		"nothing is kept": {func(*world) {}, nil, "", model.ErrNotFound},
		"one was not there": {func(w *world) {
			had(3)(w)
			w.restore = func(context.Context, int) error { // somebody takes it away meanwhile
				w.mu.Lock()
				defer w.mu.Unlock()
				delete(w.disks, "/phone/media")
				return nil
			}
		}, nil, "two times", nil},
		"one is gone": {had(3), func(_ *testing.T, w *world, _ *life) {
			for path := range w.disks {
				if strings.Contains(path, "kept") && strings.HasSuffix(path, "media") {
					delete(w.disks, path)
				}
			}
		}, "not there any more", nil},
		"a volume can't be exchanged": {had(3), func(_ *testing.T, w *world, _ *life) { w.stuck = "media" }, "device or resource busy", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				c.set(w)
				l := w.start(-1, job.Options{})
				task, err := l.prepare("r", "phone")
				if err != nil {
					t.Fatal(err)
				}
				if j := l.final(task.Jobs[0].Job); j.State != model.Done {
					t.Fatalf("%s: %s", j.State, j.Cause)
				}
				if c.then != nil {
					c.then(t, w, l)
				}
				before := fmt.Sprint(w.disks)
				if task, err = l.m.PutBack("phone", ""); !errors.Is(err, c.err) {
					t.Fatalf("put back: %v", err)
				} else if err == nil {
					if j := l.final(task.Jobs[0].Job); j.State != model.Failed || !strings.Contains(j.Cause, c.cause) {
						t.Errorf("%s: %s", j.State, j.Cause)
					}
				}
				if now := fmt.Sprint(w.disks); now != before {
					t.Errorf("before %s, now %s", before, now)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestInPlaceOrderSparesWhatChanged: a write after the decision
// makes the restore bring the old volumes back, and remove none.
func TestInPlaceOrderSparesWhatChanged(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(w *world) // when the first volume is taken out
		cause     string
		order     bool
	}{
		"a program writes":     {func(w *world) { w.disks["/phone/media"] = disk{tree: w.disks["/phone/media"].tree, count: 107} }, "has changed since", true},
		"the order is not set": {nil, "does not fit", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				l := w.start(-1, job.Options{InPlaceOrder: c.order})
				task, err := l.prepare("one", "phone")
				if err != nil {
					t.Fatal(err)
				}
				l.final(task.Jobs[0].Job)
				if err := noteReleased(l.j, "phone"); err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				w.backups["phone"], w.small = append(w.backups["phone"], 12), true
				w.fail = func(act, volume string) error {
					if act == "take-out" && volume == "data" && c.meanwhile != nil {
						c.meanwhile(w)
					}
					return nil
				}
				w.mu.Unlock()
				if task, err = l.prepare("two", "phone"); err != nil {
					t.Fatal(err)
				}
				if j := l.final(task.Jobs[0].Job); j.State != model.Failed || !strings.Contains(j.Cause, c.cause) {
					t.Errorf("%s: %s", j.State, j.Cause)
				}
				l.stop()
				want := 7
				if c.meanwhile != nil {
					want = 107
				}
				if w.disks["/phone/data"].count != 7 || w.disks["/phone/media"].count != want || len(w.disks) != 2 {
					t.Errorf("on the disks: %v", w.disks)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestInPlaceOrderFails: a restore that fails after the old volumes were condemned leaves none of
// them, and the next prepare finds all missing and restores.
func TestInPlaceOrderFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		l := w.start(-1, job.Options{InPlaceOrder: true})
		task, err := l.prepare("one", "phone")
		if err != nil {
			t.Fatal(err)
		}
		l.final(task.Jobs[0].Job)
		if err := noteReleased(l.j, "phone"); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.backups["phone"], w.small = append(w.backups["phone"], 12), true
		w.restore = func(context.Context, int) error { return errors.New("no such pack") }
		w.mu.Unlock()
		if task, err = l.prepare("two", "phone"); err != nil {
			t.Fatal(err)
		}
		j := l.final(task.Jobs[0].Job)
		if j.State != model.Failed || !strings.Contains(j.Cause, "no such pack") || !strings.Contains(j.Cause, "the next prepare restores backup b12") || len(w.disks) != 0 {
			t.Errorf("%s: %s; on the disks: %v", j.State, j.Cause, w.disks)
		}
		w.mu.Lock()
		w.restore = nil
		w.mu.Unlock()
		if task, err = l.prepare("three", "phone"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(task.Jobs[0].Job); j.State != model.Done || !w.holds(12) {
			t.Errorf("%s: %s; on the disks: %v", j.State, j.Cause, w.disks)
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}
