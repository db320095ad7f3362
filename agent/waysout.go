package agent

import (
	"context"
	"errors"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
)

// refuseBusy is the refusal of a command for instances that have unfinished jobs.
func refuseBusy(busy *model.BusyError) *api.Error {
	switch {
	case len(busy.Unknown) > 0 && len(busy.Restoring) > 0:
		return api.RefuseInstances(api.CodeInRecovery, busy.Unknown, notUnderstood)
	case len(busy.Unknown) > 0:
		return api.RefuseInstances(api.CodeInBackup, busy.Unknown, notUnderstood)
	case len(busy.Restoring) > 0:
		return api.RefuseInstances(api.CodeInRecovery, busy.Restoring, "is being restored")
	}
	return api.RefuseInstances(api.CodeInBackup, busy.Instances, "is being backed up")
}

// notUnderstood tells the meaning of the state model.Unknown for an instance.
const notUnderstood = "has an unfinished job whose record this agent does not understand; an operator of the host has to give the job up"

// PrepareFrom implements api.Service.
func (s *service) PrepareFrom(ctx context.Context, c model.Caller, requestID string, digest [32]byte, ids []string, backup string) (api.PrepareAnswer, error) {
	return s.prepare(ctx, c, job.Request{Kind: model.KindRestore, ID: requestID, Digest: digest, Tenant: c.Tenant, Instances: ids, Backup: backup})
}

// Abandon implements api.Service.
func (s *service) Abandon(_ context.Context, c model.Caller, id, jobID string) (api.Abandoned, error) {
	active, _, err := s.a.journal.ByInstance(id)
	switch {
	case err != nil:
		return api.Abandoned{}, err
	case active != nil && !c.Sees(active.Tenant), active == nil && s.a.instances[id] == nil:
		return api.Abandoned{}, noInstance(c, id)
	case active == nil:
		return api.Abandoned{}, api.RefuseInstances(api.CodeParameter, []string{id}, "has no unfinished job")
	case active.ID != jobID:
		return api.Abandoned{}, api.Refuse(api.CodeParameter, "job_id: the unfinished job of %s is %s, and not %s", api.Quote(id), active.ID, api.Quote(jobID))
	}
	j, err := s.a.manager.Abandon(id)
	switch {
	case errors.Is(err, model.ErrState):
		return api.Abandoned{}, api.Refuse(api.CodeParameter, "job_id: the job is %s, which has another way out: %s", active.State, otherWay(active))
	case errors.Is(err, model.ErrNotFound): // it ended this instant
		return api.Abandoned{}, api.RefuseInstances(api.CodeParameter, []string{id}, "has no unfinished job")
	case err != nil:
		return api.Abandoned{}, err
	}
	answer := api.Abandoned{JobID: j.ID, Message: "the job ends when the act under way has come back, within a minute; then `holdfast jobs` tells in what state the instance is left"}
	if ended, err := s.a.journal.Job(j.ID); err == nil && ended.State == model.Failed {
		answer.Ended, answer.Message = true, ended.Cause
	}
	s.a.log.Warn("an operator gave a job up; the agent leaves the instance as it is", keyInstance, id, keyJob, j.ID, keyState, string(active.State), "by", c.Via)
	return answer, nil
}

// otherWay names the call that leads a job out of its state.
func otherWay(j *model.Job) string {
	switch j.State {
	case model.Stored, model.Reported, model.Held, model.Acknowledged:
		return "`holdfast resume " + j.Instance + "` lets the instance run, `holdfast release " + j.Instance + "` powers it down"
	case model.Releasing, model.Released:
		return "power the instance down by hand, and the job ends at its next try"
	case model.Ending, model.Restored, model.Starting, model.Placing:
		return "wait for the end of the act under way; a failure leads to the way back, on which the job can be given up"
	}
	return "`holdfast cancel " + j.Task + "` undoes the job"
}
