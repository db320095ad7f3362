package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/vault"
)

// lossTime bounds one look into the store for an operator who waits:
// the requests of the agent's store are repeated without an end.
const lossTime = 30 * time.Second

// lossRecords are the records of the journal that tell which backups the store has to have.
type lossRecords interface {
	ByInstance(instance string) (active, latest *model.Job, err error)
	Content(instance string) (model.Content, error)
	AcceptedLoss(instance string) (model.AcceptedLoss, error)
}

// Losses finds the backups that this host knows and that the store lacks. It is for any goroutine.
type Losses struct {
	vaults  *Vaults
	journal lossRecords
}

// Find compares the journal's knowledge of an instance with the store: lost are the
// backups that are at least as new as the newest in the store, and that the store lacks.
func (ls *Losses) Find(ctx context.Context, id, tenant string) (lost []model.Content, newest model.Content, err error) {
	ctx, cancel := context.WithTimeout(ctx, lossTime)
	defer cancel()
	var refs []vault.BackupRef
	var lineage *vault.Lineage
	opened, err := ls.vaults.Existing(ctx, tenant)
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
	known, err := ls.journal.Content(id)
	if err != nil {
		return nil, newest, err
	}
	_, latest, err := ls.journal.ByInstance(id)
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
