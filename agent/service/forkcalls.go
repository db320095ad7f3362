package service

import (
	"context"
	"errors"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// AcceptFork implements api.Forker.
func (s *service) AcceptFork(ctx context.Context, c model.Caller, id, backupID string, again bool) error {
	if _, err := s.visible(c, id); err != nil {
		return err
	}
	err := s.jobs.AcceptFork(ctx, id, backupID, "an operator", again)
	var decided *job.ForkDecidedError
	switch {
	case errors.As(err, &decided):
		return api.RefuseInstances(api.CodeParameter, []string{id}, err.Error()+"; to decide again, say so (holdfast accept-fork --again)")
	case errors.Is(err, model.ErrState):
		return api.RefuseInstances(api.CodeParameter, []string{id}, "has no fork to decide: its last backup on this host descends from the newest one, or this host has made none")
	case errors.Is(err, vault.ErrNoHead), errors.Is(err, vault.ErrNoBackup):
		return api.Refuse(api.CodeParameter, "backup: %v", err)
	}
	return err
}
