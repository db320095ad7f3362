package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// lossTime bounds one look into the store for an operator who waits:
// the requests of the agent's store are repeated without an end.
const lossTime = 30 * time.Second

// errRolledBack says that the store is not the store of before: its
// owner deleted the newest backup, or set the store back. Until an
// operator accepts the loss only a chosen backup is restored.
var errRolledBack = errors.New("the store lacks a backup that it confirmed")

// contentOf is a backup of a vault in the journal's words; zero for no backup.
func contentOf(opened *vault.Vault, ref vault.BackupRef) model.Content {
	if ref.ID == "" {
		return model.Content{}
	}
	return model.Content{Backup: ref.ID, Seq: ref.Seq, Created: ref.Time.UTC(), Vault: opened.Info().ID}
}

// rolledBack is errRolledBack where the newest backup in the store is older
// than the last backup of this host, and no operator has accepted the loss.
func (a *Agent) rolledBack(id, tenant string, lineage *vault.Lineage, newest model.Content) error {
	_, latest, err := a.journal.ByInstance(id)
	if err != nil || latest == nil || latest.Tenant != tenant || latest.Result == nil {
		return err
	}
	last := model.Content{Backup: latest.Result.BackupID, Seq: latest.Result.Seq}
	if !lacks(lineage, newest.Backup, last.Backup) {
		return nil
	}
	accepted, err := a.journal.AcceptedLoss(id)
	if err != nil || accepted.Covers(last, newest) {
		return err
	}
	return fmt.Errorf("%w: %s, this host's last; the newest there is %q; if the deletion was meant, `holdfast accept-loss %s` lets the newest there count",
		errRolledBack, last.Backup, newest.Backup, id)
}

// Backup implements job.Restorer.
func (r restores) Backup(ctx context.Context, id, tenant, backup string) (model.Content, error) {
	opened, err := r.a.vaults.existing(ctx, tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return model.Content{}, fmt.Errorf("%w: its tenant has no vault", model.ErrNoBackup)
	} else if err != nil {
		return model.Content{}, fmt.Errorf("open vault: %w", err)
	}
	ref, err := opened.Find(ctx, id, backup)
	switch {
	case errors.Is(err, vault.ErrNoBackup):
		return model.Content{}, fmt.Errorf("%w of that id: %w", model.ErrNoBackup, err)
	case err != nil:
		return model.Content{}, err
	case ref.Incomplete:
		return model.Content{}, fmt.Errorf("backup %s is incomplete: it lacks content, so only `holdfast restore` brings back what it has", ref.ID)
	}
	c := contentOf(opened, ref)
	c.Tenant, c.Volumes = tenant, volumesIn(ctx, opened, ref)
	return c, nil
}

// withOlder adds to the error of a damaged backup which older backup can be restored instead.
func withOlder(ctx context.Context, opened *vault.Vault, ref vault.BackupRef, err error) error {
	if !errors.Is(err, vault.ErrCorrupt) && !errors.Is(err, vault.ErrNoBackup) {
		return err
	}
	refs, listErr := opened.Backups(ctx, ref.Instance)
	if listErr != nil {
		return err
	}
	at := slices.IndexFunc(refs, func(r vault.BackupRef) bool { return r.ID == ref.ID })
	if at < 0 {
		at = len(refs)
	}
	for _, r := range slices.Backward(refs[:at]) {
		if !r.Incomplete {
			return fmt.Errorf("backup %s can't be restored: %w; the next older backup is %s, of %s: `holdfast request prepare %s --backup %s` restores it",
				ref.ID, err, r.ID, r.Time.UTC().Format("2006-01-02 15:04:05Z"), ref.Instance, r.ID)
		}
	}
	return fmt.Errorf("backup %s can't be restored: %w; the vault has no older backup of the instance", ref.ID, err)
}

// knownBackup is one backup for callers.
func knownBackup(c model.Content) api.KnownBackup {
	return api.KnownBackup{BackupID: c.Backup, Sequence: c.Seq, Created: c.Created}
}

// lossOf compares the journal's knowledge of an instance with the store: lost are the
// backups that are at least as new as the newest in the store, and that the store lacks.
func (a *Agent) lossOf(ctx context.Context, id, tenant string) (lost []model.Content, newest model.Content, err error) {
	ctx, cancel := context.WithTimeout(ctx, lossTime)
	defer cancel()
	var refs []vault.BackupRef
	var lineage *vault.Lineage
	opened, err := a.vaults.existing(ctx, tenant)
	if err == nil {
		if lineage, err = opened.Lineage(ctx, id); err == nil {
			refs = lineage.Refs()
		}
	}
	switch {
	case errors.Is(err, vault.ErrNoVault):
	case err != nil:
		return nil, newest, err
	}
	// Of several newest ones, any: a loss says nothing about which of them continues the instance.
	whole := slices.DeleteFunc(slices.Clone(refs), func(r vault.BackupRef) bool { return r.Incomplete })
	if len(whole) > 0 {
		newest = contentOf(opened, whole[len(whole)-1])
	}
	known, err := a.journal.Content(id)
	if err != nil {
		return nil, newest, err
	}
	_, latest, err := a.journal.ByInstance(id)
	if err != nil {
		return nil, newest, err
	}
	all := []model.Content{known}
	if latest != nil && latest.Tenant == tenant && latest.Result != nil {
		all = append(all, model.Content{Backup: latest.Result.BackupID, Seq: latest.Result.Seq, Created: latest.Result.Created, Vault: latest.Result.VaultID})
	}
	for _, c := range all {
		seen := slices.ContainsFunc(lost, func(l model.Content) bool { return l.Backup == c.Backup })
		if c.Backup == "" || seen || lineage != nil && !lacks(lineage, newest.Backup, c.Backup) {
			continue
		}
		lost = append(lost, c)
	}
	return lost, newest, nil
}

// Loss implements api.Service.
func (s *service) Loss(ctx context.Context, c model.Caller, id string) (api.Loss, error) {
	l, _, _, err := s.loss(ctx, c, id)
	return l, err
}

func (s *service) loss(ctx context.Context, c model.Caller, id string) (l api.Loss, lost []model.Content, newest model.Content, err error) {
	in := s.a.instances[id]
	if in == nil || !c.Sees(in.cfg.Tenant) {
		return l, nil, newest, noInstance(c, id)
	}
	if lost, newest, err = s.a.lossOf(ctx, id, in.cfg.Tenant); errors.Is(err, context.DeadlineExceeded) {
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
	accepted, err := s.a.journal.AcceptedLoss(id)
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
	err = s.a.manager.AcceptLoss(id, s.a.instances[id].cfg.Tenant, model.AcceptedLoss{Lost: lost, Newest: newest, By: l.AcceptedBy, At: l.AcceptedAt})
	var busy *model.BusyError
	if errors.As(err, &busy) {
		return api.Loss{}, refuseBusy(busy)
	}
	if err != nil {
		return api.Loss{}, err
	}
	s.a.log.Warn("an operator accepted that the store lacks backups of an instance; the newest backup in the store counts from now on",
		keyInstance, id, "lost", ids, "newest", newest.Backup, "by", c.Via)
	return l, nil
}

// inDoubt adds the remedy to the error of a backup,
// of which nobody knows whether it exists: to wait.
func inDoubt(err error) error {
	if !errors.Is(err, vault.ErrMayExist) {
		return err
	}
	return fmt.Errorf("%w; wait before the instance is prepared elsewhere: the agent asks the store every %s whether the backup exists, and the log has the answer; "+
		"until then the newest backup may be this one or the one before", err, roughly(settleEvery))
}
