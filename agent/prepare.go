package agent

import (
	"context"
	"slices"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/contain"
)

// Prepare checks as Backup does, except for the storage, which it brings.
func (s *service) Prepare(ctx context.Context, c model.Caller, requestID string, digest [32]byte, ids []string) (api.PrepareAnswer, error) {
	return s.prepare(ctx, c, job.Request{Kind: model.KindRestore, ID: requestID, Digest: digest, Tenant: c.Tenant, Instances: ids})
}

func (s *service) prepare(ctx context.Context, c model.Caller, r job.Request) (api.PrepareAnswer, error) {
	ids := r.Instances
	accepted, err := s.accept(r, func() error {
		if err := s.check(ctx, c, ids, false); err != nil {
			return err
		}
		if s.a.cfg.Prepare.Refuse {
			return api.RefuseInstances(api.CodeNoPermission, ids, "this host is configured to refuse restores")
		}
		return s.elsewhere(ctx, ids)
	})
	if err != nil {
		return api.PrepareAnswer{}, err
	}
	answer := api.PrepareAnswer{TaskAnswer: accepted}
	for _, ref := range accepted.Jobs {
		j, err := s.a.journal.Job(ref.Job)
		if err != nil {
			return api.PrepareAnswer{}, err
		}
		one := api.InstanceStatus{InstanceID: ref.Instance, Status: api.PrepareRestore}
		switch j.State {
		case model.Done:
			one.Status = api.PrepareReady
		case model.Failed:
			one.Status = api.PrepareAbnormal
		}
		answer.StatusList = append(answer.StatusList, one)
	}
	return answer, nil
}

// PrepareProgress implements api.Service.
func (s *service) PrepareProgress(ctx context.Context, c model.Caller, id string) (api.PrepareProgress, error) {
	in, err := s.visible(c, id)
	if err != nil {
		return api.PrepareProgress{}, err
	}
	j, err := s.lastJob(id)
	if err != nil {
		return api.PrepareProgress{}, err
	}
	switch {
	case j == nil:
	case !j.IsRestore() && !j.State.Final():
		return api.PrepareProgress{Status: api.ProgressBackup}, nil
	case j.State == model.Accepted:
		return api.PrepareProgress{Status: api.ProgressQueued, WaitingCount: s.a.manager.Ahead(j.ID)}, nil
	case j.State == model.Unknown: // nothing goes on until an operator acts
		return api.PrepareProgress{Status: api.ProgressFailed}, nil
	case !j.State.Final():
		return api.PrepareProgress{Status: api.ProgressRestoring}, nil
	case j.IsRestore() && j.State == model.Failed:
		return api.PrepareProgress{Status: api.ProgressFailed}, nil
	}
	here, err := s.a.loaded(ctx, in, j)
	if err != nil {
		return api.PrepareProgress{}, err
	}
	if here {
		return api.PrepareProgress{Status: api.ProgressNormal}, nil
	}
	// offline, in the contract's words
	return api.PrepareProgress{Status: api.ProgressRestoring}, nil
}

// Status implements api.Service.
func (s *service) Status(ctx context.Context, c model.Caller, ids []string) ([]api.InstanceStatus, error) {
	found, err := s.batch(c, ids)
	if err != nil {
		return nil, err
	}
	list := make([]api.InstanceStatus, len(ids))
	group, ctx := contain.WithContext(ctx)
	for i, id := range ids {
		group.Go(func() error {
			status, err := s.instanceStatus(ctx, found[i])
			list[i] = api.InstanceStatus{InstanceID: id, Status: status}
			return err
		})
	}
	return list, group.Wait()
}

// instanceStatus is "abnormal" for an instance whose storage does not
// answer, as it would be after a backup: others are told of all the same.
func (s *service) instanceStatus(ctx context.Context, in *instance) (int, error) {
	j, err := s.lastJob(in.cfg.ID)
	if err != nil {
		return 0, err
	}
	switch {
	case j == nil:
	case j.IsRestore() && j.State == model.Failed:
		return api.InstanceRestoreAbnormal, nil
	case j.IsRestore() && j.State == model.Unknown:
		return api.InstanceRestoreAbnormal, nil
	case j.State == model.Failed, j.State == model.Held, j.State == model.Unknown:
		return api.InstanceBackupAbnormal, nil
	case j.State.Final():
	case j.IsRestore():
		return api.InstanceRestoring, nil
	default:
		return api.InstanceBackup, nil
	}
	here, err := s.a.loaded(ctx, in, j)
	switch {
	case noAnswer(err):
		s.a.log.Debug("the storage of an instance does not answer", keyInstance, in.cfg.ID, keyError, err.Error())
		return api.InstanceBackupAbnormal, nil
	case !here || err != nil:
		return api.InstanceIdle, err
	}
	return api.InstanceLoaded, nil
}

// lastJob gives the unfinished job of an instance, or else the last
// that ended; nil when none is known.
func (s *service) lastJob(id string) (*model.Job, error) {
	active, _, err := s.a.journal.ByInstance(id)
	if active != nil || err != nil {
		return active, err
	}
	return s.a.journal.Ended(id)
}

// loaded tells whether the data of an instance whose last job is
// over belongs to this host now: it is here, and was not released.
func (a *Agent) loaded(ctx context.Context, in *instance, last *model.Job) (bool, error) {
	if last != nil && last.State == model.Done {
		if last.IsRestore() {
			err := a.restored(ctx, in)
			if noAnswer(err) {
				return false, err
			}
			return err == nil, nil // also where the backup had empty volumes
		}
		if !last.Entered[model.Released].IsZero() {
			return false, nil
		}
	}
	volumes, err := a.presence(ctx, in, askTime)
	if err != nil || slices.Contains(volumes, prepare.VolumeMissing) {
		return false, err
	}
	return slices.Contains(volumes, prepare.VolumeContent), nil
}
