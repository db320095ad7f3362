package job_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal"
	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
)

// setBackLife is how the life after a set-back of the journal goes on.
type setBackLife struct {
	name   string
	opts   job.Options
	cancel bool
	broken bool // the note at a stage can't be read at first
}

var setBackLives = []setBackLife{
	{name: "the restore goes on"},
	{name: "the restore is cancelled", cancel: true},
	{name: "a life that only recovers", opts: job.Options{RecoverOnly: true}},
	{name: "the notes can't be read at first", broken: true},
}

// setBackActs are the acts before and after which the old trees may lie at the stages.
var setBackActs = []string{crashpoint.WritePlacing, crashpoint.Place, crashpoint.WriteRestored, crashpoint.SetAside, crashpoint.PutBack}

// TestSetBackJournalRemovesNothing kills the agent at each crash point around the exchange of the
// volumes, and sets its journal back to the state in which the restore has begun. No course of the
// next life removes the old content, which no backup has; the agent adopts it as kept content.
func TestSetBackJournalRemovesNothing(t *testing.T) {
	for _, stuck := range []string{"", "media"} { // a volume that can't be exchanged makes the job undo the exchange
		points := runSetBack(t, -1, stuck, setBackLives[0])
		tried := 0
		for i, point := range points {
			act := strings.TrimSuffix(strings.TrimSuffix(point, crashpoint.Before), crashpoint.After)
			if !slices.Contains(setBackActs, act) {
				continue
			}
			for _, next := range setBackLives {
				tried++
				t.Run(fmt.Sprint(i, " ", point, " stuck ", stuck, ", ", next.name), func(t *testing.T) { runSetBack(t, i, stuck, next) })
			}
		}
		if tried < 20 {
			t.Errorf("only %d courses of %v", tried, points)
		}
	}
}

func runSetBack(t *testing.T, crashAt int, stuck string, next setBackLife) (points []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		w.stuck = stuck
		had(3)(w)
		l := w.start(crashAt, job.Options{KeepAside: 30 * time.Hour})
		earlier := w.journal + "-earlier"
		w.restore = func(_ context.Context, volume int) error {
			if volume > 0 {
				return nil
			}
			return copyJournal(l.j, "phone", earlier)
		}
		_, _ = l.prepare("r", "phone")
		for range 1000 {
			if l.isDead() || l.idle() {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		points = slices.Clone(l.points)
		l.kill()
		l.stop()
		if err := os.Rename(earlier, w.journal); errors.Is(err, os.ErrNotExist) && crashAt >= 0 {
			return // another goroutine came later to its crash point, and the restore has not begun
		} else if err != nil {
			t.Fatal(err)
		}
		w.stuck, w.restore = "", nil
		if next.broken {
			w.fail = func(act, _ string) error {
				if act == "read-note" {
					return errors.New("input/output error")
				}
				return nil
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
		next.opts.KeepAside = 30 * time.Hour
		l = w.start(-1, next.opts)
		time.Sleep(5 * time.Minute)
		if next.opts.RecoverOnly {
			left, err := l.m.Leftovers()
			w.mu.Lock()
			stays := slices.ContainsFunc(slices.Collect(maps.Keys(w.disks)), func(path string) bool {
				return strings.Contains(path, "/.stage-") && slices.Contains(hadOld, w.disks[path].tree)
			})
			w.mu.Unlock()
			if err != nil || len(left) > 0 || stays && !l.idle() {
				t.Errorf("an old tree stays at a stage: %v, idle %v, leftovers %+v, %v", stays, l.idle(), left, err)
			}
		}
		l.stop()
		w.fail = nil
		l = w.start(-1, job.Options{KeepAside: 30 * time.Hour})
		time.Sleep(70 * time.Minute)
		known := map[string]bool{}
		all, err := l.j.Kept()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			for _, v := range s.Volumes {
				known[v.Place.Old] = true
			}
		}
		left, err := l.m.Leftovers()
		if err != nil || len(left) > 0 || !l.idle() {
			t.Errorf("leftovers %+v, %v, idle %v", left, err, l.idle())
		}
		l.stop()
		at := map[string]string{}
		for path, d := range w.disks {
			at[d.tree] = path
		}
		for _, old := range hadOld {
			switch path := at[old]; {
			case path == "":
				t.Errorf("%s was destroyed: %v", old, slices.Sorted(maps.Keys(at)))
			case strings.Contains(path, "/.") != known[old], strings.Contains(path, "/.") && !strings.Contains(path, "/.holdfast-kept-"):
				t.Errorf("%s lies at %s, known: %v", old, path, known[old])
			}
		}
		for _, f := range w.faults {
			t.Error(f)
		}
	})
	return points
}

// TestRemovalIsNotedFirst: the removal of an old tree that a backup holds for certain is noted on
// that tree before it begins, so that a part of a tree is adopted as a part after the loss of the
// journal. A full disk, which has no room for the note, keeps the removal from nothing.
func TestRemovalIsNotedFirst(t *testing.T) {
	for name, full := range map[string]error{"room": nil, "full": fmt.Errorf("mark: %w", syscall.ENOSPC), "over quota": fmt.Errorf("mark: %w", syscall.EDQUOT)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				l := w.start(-1, job.Options{})
				for _, step := range []asideStep{first7, released} {
					if err := step.do(l); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				}
				busy := true
				w.mu.Lock()
				w.backups["phone"] = append(w.backups["phone"], 12)
				w.fail = func(act, _ string) error {
					switch {
					case w.disks["/phone/media"].count != 12: // the old trees are in their places
					case act == "discard" && busy:
						return errors.New("device or resource busy")
					case act == "kept-note":
						return full
					}
					return nil
				}
				w.mu.Unlock()
				task, err := l.prepare("two", "phone")
				if err != nil {
					t.Fatal(err)
				}
				if j := l.final(task.Jobs[0].Job); j.State != model.Done {
					t.Fatalf("%s: %s", j.State, j.Cause)
				}
				left, err := l.m.Leftovers()
				if err != nil || len(left) != 2 {
					t.Fatalf("leftovers %+v, %v", left, err)
				}
				l.stop()
				if full == nil {
					w.lose()
				} else {
					busy = false
				}
				l = w.start(-1, job.Options{})
				time.Sleep(3 * time.Hour)
				all, err := l.j.Kept()
				if adopted := len(all) == 1 && len(all[0].Volumes) == 2 && all[0].Partial; err != nil || adopted != (full == nil) {
					t.Errorf("kept: %+v, %v", all, err)
				}
				if left, err := l.m.Leftovers(); err != nil || len(left) > 0 || full != nil && len(w.keptCounts()) > 0 {
					t.Errorf("leftovers %+v, %v, on the disks %v", left, err, w.disks)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestOneBadTreeHidesNoOther: kept content that can't be counted, and a name that can't be read,
// keep no other content from its adoption, its removal and its report.
func TestOneBadTreeHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone", "other")
		for _, instance := range []string{"phone", "other"} {
			w.instances[instance].state = model.IsStopped
			w.backups[instance] = []int{7}
		}
		had(3)(w)
		w.disks["/phone/.holdfast-kept-x-data"] = disk{tree: "unknown", count: 1}
		opts := job.Options{KeepAside: 3 * time.Hour}
		l := w.start(-1, opts)
		for _, step := range []asideStep{prepared(7)} {
			if err := step.do(l); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		w.mu.Lock()
		w.disks["/other/.holdfast-kept-y-data"] = disk{tree: "hung", count: 2}
		w.notes["hung"] = model.KeptNote{Instance: "other", Tenant: "acme", Job: "y", Volume: "data", Target: "/other/data"}
		unreadable := errors.New("input/output error")
		w.fail = func(act, _ string) error {
			switch act {
			case "count":
				return errHangs
			case "find-kept":
				return unreadable
			}
			return nil
		}
		w.mu.Unlock()
		time.Sleep(190 * time.Minute)
		if all, err := l.j.Kept(); err != nil || len(all) > 0 {
			t.Errorf("kept for longer than its time: %+v, %v", all, err)
		}
		stray := []string{"/phone/.holdfast-kept-x-data"}
		if got := l.m.StrayKept(); !slices.Equal(got, stray) {
			t.Errorf("strays %q", got)
		}
		l.stop()
		l = w.start(-1, opts) // which has never looked at all places
		time.Sleep(time.Hour)
		if got := l.m.StrayKept(); !slices.Equal(got, stray) {
			t.Errorf("strays after a restart %q", got)
		}
		w.mu.Lock()
		w.fail = nil
		delete(w.disks, stray[0])
		w.mu.Unlock()
		time.Sleep(70 * time.Minute)
		all, err := l.j.Kept()
		if err != nil || len(all) != 1 || all[0].Instance != "other" || len(l.m.StrayKept()) > 0 {
			t.Errorf("kept: %+v, %v, strays %q", all, err, l.m.StrayKept())
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// errCopied ends the transaction of copyJournal, which changes nothing.
var errCopied = errors.New("copied")

// copyJournal copies the file of the journal, while a job of the instance is under way. No other
// transaction writes to the file meanwhile.
func copyJournal(j *journal.Journal, instance, path string) error {
	active, _, err := j.ByInstance(instance)
	if err != nil {
		return err
	}
	_, _, err = j.Step(active.ID, "", time.Time{}, func(journal.Record) error {
		content, err := os.ReadFile(j.Path())
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		return cmp.Or(err, errCopied)
	}, journal.Change{})
	if errors.Is(err, errCopied) {
		return nil
	}
	return err
}

// askCancel notes that the unfinished job of the instance is to be undone, as Cancel does.
func askCancel(j *journal.Journal, instance string) error {
	active, _, err := j.ByInstance(instance)
	if err != nil {
		return err
	}
	_, _, err = j.Step(active.ID, "", time.Time{}, nil, journal.Change{Edit: func(j *model.Job) { j.CancelAsked = true }})
	return err
}

// noteReleased notes that the instance was powered down on the backup from which its volumes come,
// as the end of a release does.
func noteReleased(j *journal.Journal, instance string) error {
	c, err := j.Content(instance)
	if err != nil {
		return err
	}
	c.Released = true
	return j.RecallContent(instance, c.Backup, c)
}
