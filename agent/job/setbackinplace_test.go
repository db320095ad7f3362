package job_test

import (
	"context"
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
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// inPlaceActs are the acts before and after which the old volumes lie in their places, lie aside,
// or are gone, and the new volumes are built, or lie in their places.
var inPlaceActs = []string{
	crashpoint.TakeOut, crashpoint.RemoveOld, crashpoint.WritePlacing, crashpoint.Place, crashpoint.WriteRestored,
}

// TestSetBackInPlaceOrderEnds kills the agent at each crash point of a restore that removes the old
// volumes first, and sets its journal back to the time before the condemnation, or right after it.
// The job of the next life ends, whatever the disks hold. Content that no backup has is never
// destroyed, and the next prepare decides by the facts.
func TestSetBackInPlaceOrderEnds(t *testing.T) {
	for _, condemned := range []bool{false, true} {
		points := runSetBackInPlace(t, -1, condemned, false, setBackLives[0])
		tried := 0
		for i, point := range append(points, "the end") {
			act := strings.TrimSuffix(strings.TrimSuffix(point, crashpoint.Before), crashpoint.After)
			if i < len(points) && !slices.Contains(inPlaceActs, act) {
				continue
			}
			for _, next := range setBackLives[:3] {
				for _, written := range []bool{false, true} {
					if written && i < len(points) {
						continue // the instance writes once the restore is over
					}
					tried++
					t.Run(fmt.Sprintf("%d %s, condemned %v, written %v, %s", i, point, condemned, written, next.name), func(t *testing.T) {
						runSetBackInPlace(t, i, condemned, written, next)
					})
				}
			}
		}
		if tried < 20 {
			t.Errorf("only %d courses of %v", tried, points)
		}
	}
}

func runSetBackInPlace(t *testing.T, crashAt int, condemned, written bool, next setBackLife) (points []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		opts := job.Options{KeepAside: 30 * time.Hour, InPlaceOrder: true}
		l := w.start(-1, opts)
		for _, step := range []asideStep{first7, released, newer(12)} {
			if err := step.do(l); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		l.pmu.Lock()
		begin := len(l.points)
		if crashAt >= 0 {
			l.crashAt = begin + crashAt
		}
		l.pmu.Unlock()
		earlier := w.journal + "-earlier"
		keep := func() error {
			if _, err := os.Stat(earlier); err == nil {
				return nil
			}
			return copyJournal(l.j, "phone", earlier)
		}
		w.mu.Lock()
		if condemned {
			w.restore = func(context.Context, int) error { return keep() }
		} else {
			w.fail = func(act, _ string) error {
				if act == "take-out" {
					return keep()
				}
				return nil
			}
		}
		w.mu.Unlock()
		_, _ = l.prepare("again", "phone")
		for range 1000 {
			if l.isDead() || l.idle() {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		points = slices.Clone(l.points[begin:])
		l.kill()
		l.stop()
		if err := os.Rename(earlier, w.journal); errors.Is(err, os.ErrNotExist) && crashAt >= 0 {
			return // the agent died before that time
		} else if err != nil {
			t.Fatal(err)
		}
		w.restore, w.fail, w.small = nil, nil, false // no lack of room ends the job
		for _, v := range volumeNames {              // a tree that is built anew is another tree
			if d := w.disks["/phone/"+v]; written {
				w.bears["used "+v] = w.bears[d.tree]
				w.disks["/phone/"+v] = disk{tree: "used " + v, count: 112}
			}
		}
		if next.cancel {
			j, err := journal.Open(w.journal)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(askCancel(j, "phone"), j.Close()); err != nil {
				t.Fatal(err)
			}
		}
		before := trees(w)
		next.opts.KeepAside, next.opts.InPlaceOrder = opts.KeepAside, true
		l = w.start(-1, next.opts)
		time.Sleep(5 * time.Minute)
		l.stop()
		l = w.start(-1, opts)
		time.Sleep(5 * time.Minute)
		if !l.idle() {
			active, _, err := l.j.ByInstance("phone")
			t.Errorf("the job does not end: %+v, %v; on the disks %v", active, err, w.disks)
		}
		for tree, count := range before {
			if now, there := trees(w)[tree]; written && count == 112 && (!there || now != 112) {
				t.Errorf("%s, which no backup has, was destroyed: before %v, now %v", tree, before, trees(w))
			}
		}
		if l.idle() {
			task, err := l.prepare("once more", "phone")
			if err != nil {
				t.Fatal(err)
			}
			j := l.final(task.Jobs[0].Job)
			w.mu.Lock()
			at := []int{w.disks["/phone/data"].count, w.disks["/phone/media"].count}
			w.mu.Unlock()
			if j.State == model.Done && (written && at[0] != 112 || at[0] != at[1]) {
				t.Errorf("ready with %v; on the disks %v", at, w.disks)
			}
		}
		l.stop()
		for path := range maps.Keys(w.disks) {
			if strings.Contains(path, "/.stage-") {
				t.Errorf("a tree is left at a stage: %v", w.disks)
			}
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
	return points
}
