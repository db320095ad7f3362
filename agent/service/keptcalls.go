package service

import (
	"context"
	"errors"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
)

// The part of the service that is an api.Keeper.

// Kept implements api.Service.
func (s *service) Kept(context.Context, model.Caller) ([]api.KeptContent, error) {
	all, err := s.jobs.Kept()
	if err != nil {
		return nil, err
	}
	list := make([]api.KeptContent, 0, len(all))
	for _, k := range all {
		age, _ := s.jobs.KeptFor(&k)
		one := api.KeptContent{
			InstanceID: k.Instance, JobID: k.Job, Since: k.Since, Seconds: age.Seconds(), Left: max(0, s.prepared.KeepReplaced-age).Seconds(),
			Files: k.Replaced.Files, Bytes: k.Replaced.Bytes, Newest: k.Replaced.Newest, AtLeast: k.Replaced.AtLeast,
			KnownBackup: k.Known.Backup, ReplacedBy: k.By, Removing: k.Removing, Adopted: k.Adopted, Partial: k.Partial, Error: k.Error,
		}
		for _, v := range k.Volumes {
			one.Volumes = append(one.Volumes, api.KeptVolume{Name: v.Place.Volume, Path: v.Place.Aside, From: v.Place.Target})
		}
		list = append(list, one)
	}
	return list, nil
}

// PutBack implements api.Service.
func (s *service) PutBack(_ context.Context, c model.Caller, id, jobID string) (api.TaskAnswer, error) {
	if s.prepared.Refuse {
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeNoPermission, []string{id}, "this host is configured to refuse restores")
	}
	if _, err := s.visible(c, id); err != nil {
		return api.TaskAnswer{}, err
	}
	task, err := s.jobs.PutBack(id, jobID)
	var busy *model.BusyError
	switch {
	case errors.As(err, &busy) && len(busy.Restoring) > 0:
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInRecovery, []string{id}, "is being restored")
	case errors.As(err, &busy):
		return api.TaskAnswer{}, api.RefuseInstances(api.CodeInBackup, []string{id}, "is being backed up")
	case err != nil:
		return api.TaskAnswer{}, keptRefusal(err)
	}
	return api.TaskAnswer{TaskID: task.ID, Jobs: task.Jobs}, nil
}

// RemoveKept implements api.Service. An instance that left the configuration may still have
// something that is kept.
func (s *service) RemoveKept(_ context.Context, _ model.Caller, id, jobID string) error {
	return keptRefusal(s.jobs.RemoveKept(id, jobID))
}

// keptRefusal turns an error of the manager into an answer for operators.
func keptRefusal(err error) error {
	switch {
	case errors.Is(err, job.ErrDraining):
		return api.Busy(retryDraining, "this host is shutting down")
	case errors.Is(err, model.ErrQueueFull):
		return api.Busy(retryFull, "the queue of this host is full")
	case errors.Is(err, model.ErrNotFound), errors.Is(err, job.ErrAmbiguous), errors.Is(err, model.ErrState):
		return api.Refuse(api.CodeParameter, "%s", err.Error())
	case err != nil:
		return api.Refuse(api.CodeInternal, "%s", err.Error())
	}
	return nil
}
