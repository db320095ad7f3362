package job_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// TestContentThatAppears: nothing tells whether an instance runs, its volumes are missing, and a
// program makes one of them while the restore is under way. The program keeps its volume, and the
// restore fails and leaves nothing. An empty folder, as an engine makes it, is replaced.
func TestContentThatAppears(t *testing.T) {
	for name, c := range map[string]struct {
		state  model.RuntimeState
		nobody bool
		made   disk
		cause  string // "": done
	}{
		"runtime: none":                {model.IsUnknown, true, disk{tree: "of a program", count: 50}, "content came to /phone/data"},
		"the runtime can't tell":       {model.IsUnknown, false, disk{tree: "of a program", count: 50}, "content came to /phone/data"},
		"an empty folder":              {model.IsUnknown, true, disk{tree: "of an engine", empty: true}, ""},
		"the runtime says: it is down": {model.IsStopped, false, disk{tree: "of a program", count: 50}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state, w.instances["phone"].nobody = c.state, c.nobody
				w.backups["phone"] = []int{7}
				w.restore = func(_ context.Context, volume int) error {
					w.mu.Lock()
					defer w.mu.Unlock()
					if volume == 1 {
						w.disks["/phone/data"] = c.made
					}
					return nil
				}
				l := w.start(-1, job.Options{KeepAside: 30 * time.Hour})
				task, err := l.prepare("one", "phone")
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				time.Sleep(5 * time.Minute)
				l.stop()
				if (j.State == model.Done) != (c.cause == "") || !strings.Contains(j.Cause, c.cause) {
					t.Errorf("ended %s (%s)", j.State, j.Cause)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				switch {
				case c.cause != "" && (w.disks["/phone/data"] != c.made || len(w.disks) != 1):
					t.Errorf("on the disks: %v", w.disks)
				case c.cause == "" && w.disks["/phone/data"].count != 7:
					t.Errorf("on the disks: %v", w.disks)
				case c.cause == "" && !c.made.empty && trees(w)[c.made.tree] != c.made.count:
					t.Errorf("%s was destroyed: %v", c.made.tree, w.disks)
				}
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
