package job

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

type countingRuntime struct{ downs int }

func (r *countingRuntime) State(context.Context) (Sight, error)    { return Sight{State: IsFrozen}, nil }
func (r *countingRuntime) Of(string) Runtime                       { return r }
func (r *countingRuntime) Freeze(context.Context) error            { return nil }
func (r *countingRuntime) Thaw(context.Context) error              { return nil }
func (r *countingRuntime) Stop(context.Context) error              { return nil }
func (r *countingRuntime) Start(context.Context) error             { return nil }
func (r *countingRuntime) PowerDown(context.Context, *Sight) error { r.downs++; return nil }
func (r *countingRuntime) KeepDown(context.Context) error          { return nil }

const notLookedAt = "not looked at"

// Invariant release-last: each condition of the gate on its own
// keeps the instance from being powered down.
func TestInvariantReleaseLast(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	whole := func() *Job {
		return &Job{
			ID: "j", Instance: "phone", State: Releasing, Policy: ReleaseByAgent, Hold: true, HeldSince: now,
			Held:      Sight{State: IsFrozen, ID: "i", Run: "1", Work: "2", Proof: true},
			Entered:   map[State]time.Time{Stored: now, Reported: now, Acknowledged: now, Releasing: now},
			Result:    &Result{BackupID: "b", Object: "o", ManifestSHA256: "00", Verified: now},
			ReportSeq: 3, AcknowledgedAt: now,
		}
	}
	cases := []struct {
		name   string
		spoil  func(j *Job)
		outbox bool // the completed event is still there
		want   error
	}{
		{"all is there", func(*Job) {}, false, nil},
		{"asked by the control plane", func(j *Job) { j.Policy, j.ReleaseAsked = ReleaseByControlPlane, true }, false, nil},
		{"no result", func(j *Job) { j.Result = nil }, false, errMayNotRelease},
		{"no object", func(j *Job) { j.Result.Object = "" }, false, errMayNotRelease},
		{"no digest", func(j *Job) { j.Result.ManifestSHA256 = "" }, false, errMayNotRelease},
		{"not verified", func(j *Job) { j.Result.Verified = time.Time{} }, false, errMayNotRelease},
		{"never stored", func(j *Job) { delete(j.Entered, Stored) }, false, errMayNotRelease},
		{"never reported", func(j *Job) { delete(j.Entered, Reported) }, false, errMayNotRelease},
		{"never acknowledged", func(j *Job) { delete(j.Entered, Acknowledged) }, false, errMayNotRelease},
		{"no time of acknowledgement", func(j *Job) { j.AcknowledgedAt = time.Time{} }, false, errMayNotRelease},
		{"no report", func(j *Job) { j.ReportSeq = 0 }, false, errMayNotRelease},
		{"report in the outbox", func(*Job) {}, true, errMayNotRelease},
		{"let go since", func(j *Job) { j.Hold = false }, false, errMayNotRelease},
		{"to be resumed", func(j *Job) { j.ResumeAsked = true }, false, errMayNotRelease},
		{"not asked", func(j *Job) { j.Policy = ReleaseByControlPlane }, false, errMayNotRelease},
		{"no proof", func(j *Job) { j.Held.Proof = false }, false, errMayNotRelease},
		{"no proof, but asked", func(j *Job) { j.Held.Proof, j.ReleaseAsked = false, true }, false, nil},
		{"no proof, and nothing holds it", func(j *Job) { j.Held, j.HeldSince = Sight{State: IsUnknown}, time.Time{} }, false, nil},
		{"policy unknown", func(j *Job) { j.Policy = "" }, false, errMayNotRelease},
		{"intent not journalled", func(j *Job) { j.State = Acknowledged }, false, errMayNotRelease},
		{"held", func(j *Job) { j.State = Held }, false, errMayNotRelease},
		{"failing", func(j *Job) { j.State = Failing }, false, errMayNotRelease},
		{"a fork", func(j *Job) { j.Result.Fork = []Fork{{Backup: "b-2"}} }, false, errMayNotRelease},
		{"a fork that is decided here, and not in the vault", func(j *Job) {
			j.Result.Fork, j.Fork = []Fork{{Backup: "b-2"}}, ForkDecision{Backup: "b-2"}
		}, false, errMayNotRelease},
		{"a fork that is decided", func(j *Job) {
			j.Result.Fork, j.Fork = []Fork{{Backup: "b-2"}}, ForkDecision{Backup: "b-2", Stored: true}
		}, false, nil},
		{"gone from the store", func(j *Job) { j.Gone = "a pack is missing" }, false, errMayNotRelease},
		{notLookedAt, func(*Job) {}, false, errUnproved},
		{"looked at long ago", func(*Job) {}, false, errUnproved},
		{"looked at in the future", func(*Job) {}, false, errUnproved},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			jr, err := OpenJournal(filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			defer jr.Close()
			j := whole()
			c.spoil(j)
			err = jr.db.Update(func(tx *bbolt.Tx) error {
				if c.outbox {
					if err := put(tx, bucketOutbox, outboxKey(3), Event{Seq: 3}); err != nil {
						return err
					}
				}
				return put(tx, bucketJobs, []byte("j"), j)
			})
			if err != nil {
				t.Fatal(err)
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
