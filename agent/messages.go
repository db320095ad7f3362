package agent

import (
	"fmt"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/evidence"
)

// status is the job's state in the contract's words, and its error code.
func status(j *model.Job) (int, string) {
	switch j.State {
	case model.Done:
		return api.StatusSuccess, ""
	case model.Failed:
		return api.StatusFailed, api.CodeInternal
	default:
		return api.StatusRunning, ""
	}
}

// message says for people how the job stands, as far as the caller may know.
func (s *service) message(c model.Caller, j *model.Job) string {
	switch j.State {
	case model.Done:
		if j.IsRestore() {
			return s.restoreMessage(c, j)
		}
		ended := "backed up; the instance is powered down"
		if j.ResumeAsked {
			ended = "backed up; the instance runs again, as was asked"
		} else if j.Mode == model.ModeLive {
			ended = "backed up; the instance ran all the time"
		}
		if decided := j.ForkWords(); decided != "" {
			ended += "; its backup made a fork: " + s.textFor(c, decided)
		}
		return ended
	case model.Unknown:
		return string(j.State) + ": " + s.a.cause(c, j) + "; " + notUnderstood
	case model.Failed, model.Failing, model.Held:
		return string(j.State) + ": " + s.a.cause(c, j)
	case model.Reported:
		return "reported, not acknowledged yet"
	case model.Acknowledged:
		if err := forkTrouble(j); err != nil {
			return "backed up, but " + s.textFor(c, err.Error()) + "; the instance is frozen until somebody accepts one of the two (release does), or resumes it"
		}
		if j.Policy == model.ReleaseByControlPlane && !j.ReleaseAsked {
			return "backed up; the instance is frozen until it is released or resumed"
		}
		if j.Unproven() && !j.ReleaseAsked {
			return "backed up; its runtime can't tell whether the instance ran since, so it is frozen until it is released or resumed"
		}
	}
	if t := s.jobTrouble(c, j); t != nil {
		return string(j.State) + ", which fails and is tried again: " + t.Error
	}
	return string(j.State)
}

func (s *service) event(c model.Caller, j *model.Job, what string) api.Event {
	e := api.Event{
		Time: time.Now().UTC(), Type: what, TaskID: j.Task, JobID: j.ID, InstanceID: j.Instance, Stage: string(j.State), Message: s.message(c, j),
	}
	if what != api.EventProgress {
		e.Time = j.Entered[j.State]
	}
	if j.Result != nil {
		e.BackupID = j.Result.BackupID
	} else if j.Restore != nil {
		e.BackupID = j.Restore.Backup
	}
	if what == api.EventEnded {
		e.Status, e.ErrorCode = status(j)
		if j.State == model.Failed {
			e.ErrorMsg = s.a.cause(c, j)
		}
	}
	return e
}

// jobTrouble tells what fails now of an unfinished job,
// as far as the caller may know; nil when nothing does.
func (s *service) jobTrouble(c model.Caller, j *model.Job) *api.Trouble {
	f, ok := s.a.watcher.failureOf(j.ID)
	if !ok || j.State.Final() {
		return nil
	}
	t := sighting{
		name: s.a.actTrouble(j), instance: j.Instance, job: j.ID, age: evidence.SinceBoot() - f.since, err: fmt.Errorf("%s: %w", f.doing, f.err),
	}.trouble()
	if !c.SeesAll() {
		t.Error, t.Hint = s.a.forTenant(t.Error), "" // the remedy is for the host
	}
	return &t
}

// warn sends a warning when what fails of a job is another
// thing than the last time; warned has that by job.
func (s *service) warn(c model.Caller, j *model.Job, warned map[string]string, send func(api.Event) error) error {
	text := ""
	if t := s.jobTrouble(c, j); t != nil {
		text = t.Error
	}
	if text == warned[j.ID] {
		return nil
	}
	if warned[j.ID] = text; text == "" {
		return nil
	}
	e := s.event(c, j, api.EventWarning)
	e.Time, e.Message = time.Now().UTC(), text
	return send(e)
}

// restoreMessage says for people how a restore ended well, as far as the caller may know.
func (s *service) restoreMessage(c model.Caller, j *model.Job) string {
	ended := "restored"
	if j.Restore != nil && j.Restore.Ready {
		ended = "was ready already"
	}
	if !j.Entered[model.Starting].IsZero() {
		ended += "; the instance was started"
	}
	if j.Restore != nil && j.Restore.Warning != "" {
		ended += "; " + s.textFor(c, j.Restore.Warning)
	}
	return ended
}
