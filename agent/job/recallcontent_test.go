package job_test

import (
	"context"
	"errors"
	"testing"

	"holdfast/agent/job"
	"holdfast/agent/model"
)

// ByMarks tells the marks on the world's volumes.
func (r fakeRestorer) ByMarks(_ context.Context, instance, _ string, _ model.Content) (model.Content, error) {
	r.l.alive()
	w := r.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing("by-marks", instance); err != nil {
		return model.Content{}, err
	}
	return w.byMarks[instance], nil
}

// TestMarksTellTheParent: where the journal knows no backup of the volumes, or
// an older one, the marks on them name the parent of the next backup. The journal
// counts where it knows as much, and where the marks can't be read.
func TestMarksTellTheParent(t *testing.T) {
	in(t, job.Options{}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		backup := func(request, parent string) *model.Job {
			t.Helper()
			j := l.final(mustAccept(t, l, request, "phone").Jobs[0].Job)
			if j.State != model.Done || j.Result.Parent != parent {
				t.Errorf("%s: %s, with the parent %q, want %q", request, j.State, j.Result.Parent, parent)
			}
			w.mu.Lock()
			w.instances["phone"].state = model.IsRunning
			w.mu.Unlock()
			return j
		}
		bears := func(c model.Content, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.byMarks = map[string]model.Content{"phone": c}
			w.fail = func(act, _ string) error {
				if act == "by-marks" {
					return err
				}
				return nil
			}
		}
		bears(model.Content{}, nil)
		first := backup("nothing is known", "").Result.BackupID
		bears(model.Content{Backup: "b-old", Seq: 1}, nil)
		second := backup("the journal knows as much", first).Result.BackupID
		bears(model.Content{Backup: "b-new", Seq: 99}, errors.New("the volume does not answer"))
		backup("the marks can't be read", second)
		bears(model.Content{Backup: "b-new", Seq: 99}, nil)
		backup("the journal was set back", "b-new")
	})
}

// TestMarksAfterALostJournal is the same for a journal that knows nothing at all.
func TestMarksAfterALostJournal(t *testing.T) {
	in(t, job.Options{}, []string{"phone"}, func(t *testing.T, w *world, l *life) {
		w.byMarks = map[string]model.Content{"phone": {Backup: "b-9", Seq: 9, Vault: "v"}}
		j := l.final(mustAccept(t, l, "request-1", "phone").Jobs[0].Job)
		if j.State != model.Done || j.Result.Parent != "b-9" {
			t.Errorf("%+v", j.Result)
		}
	})
}
