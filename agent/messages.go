package agent

import (
	"fmt"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/internal/evidence"
)

// jobTrouble tells what fails now of an unfinished job,
// as far as the caller may know; nil when nothing does.
func (s *service) jobTrouble(c api.Caller, j *job.Job) *api.Trouble {
	f, ok := s.a.watcher.failureOf(j.ID)
	if !ok || j.State.Final() {
		return nil
	}
	t := sighting{
		name: s.a.actTrouble(j), instance: j.Instance, job: j.ID, age: evidence.SinceBoot() - f.since, err: fmt.Errorf("%s: %w", f.doing, f.err),
	}.trouble()
	if !c.SeesAll() {
		t.Error, t.Hint = s.a.forTenant(t.Error), "" // what is to be done is done on the host
	}
	return &t
}

// warn sends a warning when what fails of a job is another
// thing than the last time; warned has that by job.
func (s *service) warn(c api.Caller, j *job.Job, warned map[string]string, send func(api.Event) error) error {
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

// restoreMessage says for people how a restore ended well.
func restoreMessage(j *job.Job) string {
	ended := "restored"
	if j.Restore != nil && j.Restore.Ready {
		ended = "was ready already"
	}
	if !j.Entered[job.Starting].IsZero() {
		ended += "; the instance was started"
	}
	return ended
}
