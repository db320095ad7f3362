package job

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/model"
)

type countingRuntime struct{ downs int }

func (r *countingRuntime) State(context.Context) (model.Sight, error) {
	return model.Sight{State: model.IsFrozen}, nil
}
func (r *countingRuntime) Of(string) Runtime                             { return r }
func (r *countingRuntime) Freeze(context.Context) error                  { return nil }
func (r *countingRuntime) Thaw(context.Context) error                    { return nil }
func (r *countingRuntime) Stop(context.Context) error                    { return nil }
func (r *countingRuntime) Start(context.Context) error                   { return nil }
func (r *countingRuntime) PowerDown(context.Context, *model.Sight) error { r.downs++; return nil }
func (r *countingRuntime) KeepDown(context.Context) error                { return nil }

const notLookedAt = "not looked at"

// Invariant release-last: each condition of the gate on its own
// keeps the instance from being powered down.
func TestInvariantReleaseLast(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	whole := func() *model.Job {
		return &model.Job{
			ID: "j", Instance: "phone", State: model.Releasing, AcceptedAt: now, Policy: model.ReleaseByAgent, Hold: true, HeldSince: now,
			Held:      model.Sight{State: model.IsFrozen, ID: "i", Run: "1", Work: "2", Proof: true},
			Entered:   map[model.State]time.Time{model.Stored: now, model.Reported: now, model.Acknowledged: now, model.Releasing: now},
			Result:    &model.Result{BackupID: "b", Object: "o", ManifestSHA256: "00", Verified: now},
			ReportSeq: 3, AcknowledgedAt: now,
		}
	}
	cases := []struct {
		name   string
		spoil  func(j *model.Job)
		outbox bool // the completed event is still there
		want   error
	}{
		{"all is there", func(*model.Job) {}, false, nil},
		{"asked by the control plane", func(j *model.Job) { j.Policy, j.ReleaseAsked = model.ReleaseByControlPlane, true }, false, nil},
		{"no result", func(j *model.Job) { j.Result = nil }, false, errMayNotRelease},
		{"no object", func(j *model.Job) { j.Result.Object = "" }, false, errMayNotRelease},
		{"no digest", func(j *model.Job) { j.Result.ManifestSHA256 = "" }, false, errMayNotRelease},
		{"not verified", func(j *model.Job) { j.Result.Verified = time.Time{} }, false, errMayNotRelease},
		{"never stored", func(j *model.Job) { delete(j.Entered, model.Stored) }, false, errMayNotRelease},
		{"never reported", func(j *model.Job) { delete(j.Entered, model.Reported) }, false, errMayNotRelease},
		{"never acknowledged", func(j *model.Job) { delete(j.Entered, model.Acknowledged) }, false, errMayNotRelease},
		{"no time of acknowledgement", func(j *model.Job) { j.AcknowledgedAt = time.Time{} }, false, errMayNotRelease},
		{"no report", func(j *model.Job) { j.ReportSeq = 0 }, false, errMayNotRelease},
		{"report in the outbox", func(*model.Job) {}, true, errMayNotRelease},
		{"let go since", func(j *model.Job) { j.Hold = false }, false, errMayNotRelease},
		{"to be resumed", func(j *model.Job) { j.ResumeAsked = true }, false, errMayNotRelease},
		{"not asked", func(j *model.Job) { j.Policy = model.ReleaseByControlPlane }, false, errMayNotRelease},
		{"no proof", func(j *model.Job) { j.Held.Proof = false }, false, errMayNotRelease},
		{"no proof, but asked", func(j *model.Job) { j.Held.Proof, j.ReleaseAsked = false, true }, false, nil},
		{"no proof, and nothing holds it", func(j *model.Job) { j.Held, j.HeldSince = model.Sight{State: model.IsUnknown}, time.Time{} }, false, nil},
		{"policy unknown", func(j *model.Job) { j.Policy = "" }, false, errMayNotRelease},
		{"intent not journalled", func(j *model.Job) { j.State = model.Acknowledged }, false, errMayNotRelease},
		{"held", func(j *model.Job) { j.State = model.Held }, false, errMayNotRelease},
		{"failing", func(j *model.Job) { j.State = model.Failing }, false, errMayNotRelease},
		{"a fork", func(j *model.Job) { j.Result.Fork = []model.Fork{{Backup: "b-2"}} }, false, errMayNotRelease},
		{"a fork that is decided here, and not in the vault", func(j *model.Job) {
			j.Result.Fork, j.Fork = []model.Fork{{Backup: "b-2"}}, model.ForkDecision{Backup: "b-2"}
		}, false, errMayNotRelease},
		{"a fork that is decided", func(j *model.Job) {
			j.Result.Fork, j.Fork = []model.Fork{{Backup: "b-2"}}, model.ForkDecision{Backup: "b-2", Stored: true}
		}, false, nil},
		{"gone from the store", func(j *model.Job) { j.Gone = "a pack is missing" }, false, errMayNotRelease},
		{notLookedAt, func(*model.Job) {}, false, errUnproved},
		{"looked at long ago", func(*model.Job) {}, false, errUnproved},
		{"looked at in the future", func(*model.Job) {}, false, errUnproved},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			jr, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			defer jr.Close()
			j := whole()
			c.spoil(j)
			if _, _, err := jr.Accept(model.Task{ID: "t", RequestID: "r"}, []model.Job{*j}); err != nil {
				t.Fatal(err)
			}
			if c.outbox {
				emitted := func(*model.Job) (model.Event, error) { return model.Event{Type: model.EventCompleted}, nil }
				if _, _, err := jr.Step("j", "", now, nil, journal.Change{Emit: emitted}); err != nil {
					t.Fatal(err)
				}
			}
			m := New(jr, Parts{}, Options{Now: time.Now})
			rt := &countingRuntime{}
			w := &worker{m: m, id: "j", proved: time.Now()}
			switch c.name {
			case notLookedAt:
				w.proved = time.Time{}
			case "looked at long ago":
				w.proved = time.Now().Add(-actTimeout)
			case "looked at in the future": // the clock was set back
				w.proved = time.Now().Round(0).Add(time.Hour)
			}
			err = w.powerDown(t.Context(), Instance{ID: "phone", Runtime: rt})
			if !errors.Is(err, c.want) || (rt.downs == 1) != (c.want == nil) {
				t.Errorf("error %v, powered down %d times", err, rt.downs)
			}
		})
	}
}
