package service

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// knownBackup is one backup for callers.
func knownBackup(c model.Content) api.KnownBackup {
	return api.KnownBackup{BackupID: c.Backup, Sequence: c.Seq, Created: c.Created}
}

// Loss implements api.Service.
func (s *service) Loss(ctx context.Context, c model.Caller, id string) (api.Loss, error) {
	l, _, _, err := s.loss(ctx, c, id)
	return l, err
}

func (s *service) loss(ctx context.Context, c model.Caller, id string) (l api.Loss, lost []model.Content, newest model.Content, err error) {
	in := s.instances.Configured(id)
	if in == nil || !c.Sees(in.Config().Tenant) {
		return l, nil, newest, noInstance(c, id)
	}
	if lost, newest, err = s.losses.Find(ctx, id, in.Config().Tenant); errors.Is(err, context.DeadlineExceeded) {
		return l, nil, newest, api.Busy(retryDraining, "the store does not answer, so what it has is not known")
	} else if err != nil {
		return l, nil, newest, err
	}
	l.InstanceID = id
	for _, one := range lost {
		l.Lost = append(l.Lost, knownBackup(one))
	}
	if newest.Backup != "" {
		b := knownBackup(newest)
		l.Newest = &b
	}
	accepted, err := s.journal.AcceptedLoss(id)
	if err != nil {
		return l, nil, newest, err
	}
	if len(lost) > 0 && !slices.ContainsFunc(lost, func(one model.Content) bool { return !accepted.Covers(one, newest) }) {
		l.Accepted, l.AcceptedBy, l.AcceptedAt = true, accepted.By, accepted.At
	}
	return l, lost, newest, nil
}

// AcceptLoss implements api.Service. The confirmed backups have to be the lost backups of now.
func (s *service) AcceptLoss(ctx context.Context, c model.Caller, id string, confirmed api.LossConfirmed) (api.Loss, error) {
	l, lost, newest, err := s.loss(ctx, c, id)
	if err != nil {
		return api.Loss{}, err
	}
	var ids []string
	for _, one := range lost {
		ids = append(ids, one.Backup)
	}
	slices.Sort(ids)
	given := slices.Sorted(slices.Values(confirmed.Lost))
	switch {
	case len(ids) == 0:
		return api.Loss{}, api.RefuseInstances(api.CodeParameter, []string{id}, "the store has every backup that this host knows; nothing is lost")
	case !slices.Equal(ids, given):
		return api.Loss{}, api.Refuse(api.CodeParameter, "lost: the store lacks other backups of %s than those that were confirmed; look again", api.Quote(id))
	case confirmed.BackupID != newest.Backup:
		return api.Loss{}, api.Refuse(api.CodeParameter, "backup_id: the newest backup of %s in the store is %s; look again", api.Quote(id), api.Quote(newest.Backup))
	case l.Accepted: // done twice
		return l, nil
	}
	l.Accepted, l.AcceptedBy, l.AcceptedAt = true, c.Via, time.Now().UTC()
	err = s.jobs.AcceptLoss(id, s.instances.Configured(id).Config().Tenant, model.AcceptedLoss{Lost: lost, Newest: newest, By: l.AcceptedBy, At: l.AcceptedAt})
	var busy *model.BusyError
	if errors.As(err, &busy) {
		return api.Loss{}, refuseBusy(busy)
	}
	if err != nil {
		return api.Loss{}, err
	}
	s.log.Warn("an operator accepted that the store lacks backups of an instance; the newest backup in the store counts from now on",
		keyInstance, id, "lost", ids, "newest", newest.Backup, "by", c.Via)
	return l, nil
}
