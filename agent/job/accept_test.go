package job_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/journal/journaltest"
	"holdfast/agent/model"
)

// TestAcceptedLoss: a newest backup that was deleted on purpose fails
// every restore, until an operator accepts the loss. The acceptance is for
// that loss alone, and the content of the volumes does not count as saved.
func TestAcceptedLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5, 7}
		l := w.start(-1, job.Options{})
		prepare := func(request string) *model.Job {
			t.Helper()
			task, err := l.prepare(request, "phone")
			if err != nil {
				t.Fatal(err)
			}
			return l.final(task.Jobs[0].Job)
		}
		if j := prepare("one"); j.State != model.Done {
			t.Fatal(j.Cause)
		}
		b5, b7 := model.Content{Backup: "b5", Seq: 1}, model.Content{Backup: "b7", Seq: 2}
		w.backups["phone"] = []int{5}
		if j := prepare("two"); j.State != model.Failed || !strings.Contains(j.Cause, "accept-loss") {
			t.Errorf("before the loss is accepted: %s (%s)", j.State, j.Cause)
		}
		for what, a := range map[string]model.AcceptedLoss{
			"another loss":                   {Lost: []model.Content{{Backup: "b6", Seq: 2}}, Newest: b5},
			"this loss, of a fuller store":   {Lost: []model.Content{b7}, Newest: model.Content{Backup: "b6", Seq: 2}},
			"a backup without a name, so to": {Lost: []model.Content{{}}, Newest: b5},
		} {
			if err := l.m.AcceptLoss("phone", "acme", a); err != nil {
				t.Fatal(err)
			}
			if j := prepare("not " + what); j.State != model.Failed || w.disks["/phone/data"].count != 7 {
				t.Errorf("%s was accepted, and the restore is %s", what, j.State)
			}
		}
		if err := l.m.AcceptLoss("phone", "acme", model.AcceptedLoss{}); err == nil {
			t.Error("a loss of nothing is accepted")
		}
		if err := l.m.AcceptLoss("phone", "acme", model.AcceptedLoss{Lost: []model.Content{b7}, Newest: b5, By: "a test", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		l.stop()
		l = w.start(-1, job.Options{}) // the word outlives the life
		j := prepare("three")
		if j.State != model.Done || j.Restore.Backup != "b5" || w.disks["/phone/data"].count != 5 {
			t.Errorf("after it is accepted: %s (%s), the volume holds %d", j.State, j.Cause, w.disks["/phone/data"].count)
		}
		if j.Restore.Certain {
			t.Error("the restore takes for saved what came from the lost backup")
		}
		l.stop()
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// TestChosenBackup: an operator names the backup to restore. The content of the
// volumes counts as saved only where the vault has the backup from which it came.
func TestChosenBackup(t *testing.T) {
	for _, tt := range []struct {
		name    string
		vault   []int // when the operator asks
		chosen  string
		end     model.State
		cause   string
		count   int
		certain bool
	}{
		{name: "an older one", vault: []int{5, 7}, chosen: "b5", end: model.Done, count: 5, certain: true},
		{name: "an older one, and the newest is lost", vault: []int{5}, chosen: "b5", end: model.Done, count: 5},
		{name: "the newest", vault: []int{5, 7}, chosen: "b7", end: model.Done, count: 7},
		{name: "none of the vault", vault: []int{5, 7}, chosen: "b6", end: model.Failed, cause: "no backup", count: 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone")
				w.instances["phone"].state = model.IsStopped
				w.backups["phone"] = []int{5, 7}
				l := w.start(-1, job.Options{})
				task, err := l.prepare("one", "phone")
				if err != nil || l.final(task.Jobs[0].Job).State != model.Done {
					t.Fatal(err)
				}
				if err := noteReleased(l.j, "phone"); err != nil {
					t.Fatal(err)
				}
				w.backups["phone"] = tt.vault
				task, err = l.send(job.Request{Kind: model.KindRestore, ID: "two", Digest: [32]byte{8}, Tenant: "acme", Instances: []string{"phone"}, Backup: tt.chosen})
				if err != nil {
					t.Fatal(err)
				}
				j := l.final(task.Jobs[0].Job)
				if j.State != tt.end || !strings.Contains(j.Cause, tt.cause) || w.disks["/phone/data"].count != tt.count {
					t.Errorf("%s (%s), the volume holds %d", j.State, j.Cause, w.disks["/phone/data"].count)
				}
				if j.State == model.Done && !j.Restore.Ready && j.Restore.Certain != tt.certain {
					t.Errorf("certain is %v", j.Restore.Certain)
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}

// TestAbandonedRestoreIsInDoubt: after a restore that was given up nobody knows the content of
// the volumes, so the next restore is refused until a person has looked, or has named the backup.
func TestAbandonedRestoreIsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "phone")
		w.instances["phone"].state = model.IsStopped
		w.backups["phone"] = []int{5}
		l := w.start(-1, job.Options{})
		task, err := l.prepare("one", "phone")
		if err != nil || l.final(task.Jobs[0].Job).State != model.Done {
			t.Fatal(err)
		}
		w.backups["phone"] = []int{5, 7}
		on := make(chan struct{})
		w.restore = func(context.Context, int) error { <-on; return nil }
		if task, err = l.prepare("two", "phone"); err != nil {
			t.Fatal(err)
		}
		id := task.Jobs[0].Job
		l.until(id, model.Restoring)
		close(on)
		l.final(id)
		l.stop()
		journaltest.Edit(t, w.journal, unfinished(id, "phone"))
		l = w.start(-1, job.Options{})
		if j, _ := l.j.Job(id); j.State != model.Unknown || !j.IsRestore() {
			t.Fatalf("the restore is %s", j.State)
		}
		if _, err := l.m.Abandon("phone"); err != nil {
			t.Fatal(err)
		}
		if c, err := l.j.Content("phone"); err != nil || !strings.Contains(c.Doubt, "was given up while it was unknown") || c.Backup == "" {
			t.Errorf("the volumes hold %+v, %v", c, err)
		}
		had(9)(w) // and nobody knows of it
		if task, err = l.prepare("three", "phone"); err != nil {
			t.Fatal(err)
		}
		if j := l.final(task.Jobs[0].Job); j.State != model.Failed || !strings.Contains(j.Cause, "not known what volume") {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		task, err = l.send(job.Request{Kind: model.KindRestore, ID: "four", Digest: [32]byte{8}, Tenant: "acme", Instances: []string{"phone"}, Backup: "b5"})
		if err != nil {
			t.Fatal(err)
		}
		if j := l.final(task.Jobs[0].Job); j.State != model.Done || j.Restore.Certain || w.disks["/phone/data"].count != 5 {
			t.Errorf("%s: %s", j.State, j.Cause)
		}
		if c, err := l.j.Content("phone"); err != nil || c.Doubt != "" {
			t.Errorf("after a restore: %+v, %v", c, err)
		}
		l.stop()
	})
}

// unfinished makes the record of a restore that is done one
// of a restore in a state that this program does not know.
func unfinished(id, instance string) func(tx *journaltest.Tx) error {
	return func(tx *journaltest.Tx) error {
		return errors.Join(journaltest.First("jobs", id, journaltest.Replaced(`"state":"done"`, `"state":"resharding"`))(tx), journaltest.First("jobs", id, journaltest.Replaced(`"placed":true,`, ""))(tx),
			tx.Bucket([]byte("active")).Put([]byte(instance), []byte(id)))
	}
}

// TestTenantOfTheConfiguration: a job that waited while the configuration
// gave its instance to another tenant fails, and touches nothing.
func TestTenantOfTheConfiguration(t *testing.T) {
	for _, kind := range []model.Kind{model.KindBackup, model.KindRestore} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "phone", "busy")
				w.backups["phone"] = []int{5}
				w.instances["phone"].state, w.instances["busy"].state = model.IsStopped, model.IsStopped
				w.backups["busy"] = []int{5}
				on := make(chan struct{})
				w.restore = func(ctx context.Context, _ int) error {
					select {
					case <-on:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				l := w.start(-1, job.Options{Jobs: 1})
				if _, err := l.prepare("one", "busy"); err != nil {
					t.Fatal(err)
				}
				task, err := l.send(job.Request{Kind: kind, ID: "two", Digest: [32]byte{8}, Tenant: "acme", Instances: []string{"phone"}})
				if err != nil {
					t.Fatal(err)
				}
				l.stop()
				w.instances["phone"].tenant = "other"
				close(on)
				l = w.start(-1, job.Options{})
				j := l.final(task.Jobs[0].Job)
				if j.State != model.Failed || !strings.Contains(j.Cause, `gives the instance to tenant "other"`) {
					t.Errorf("%s: %s", j.State, j.Cause)
				}
				if _, there := w.disks["/phone/data"]; there || len(w.backups["phone"]) != 1 {
					t.Errorf("the volume is there: %v, backups %v", there, w.backups["phone"])
				}
				l.stop()
				for _, f := range w.faults {
					t.Error(f)
				}
			})
		})
	}
}
