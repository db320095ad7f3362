package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/vault"
)

// chain is a job.Chain: the backups of an instance, as one list of the vault has them.
type chain struct {
	losses     *Losses
	id, tenant string
	opened     *vault.Vault // nil: the tenant has no vault
	lineage    *vault.Lineage
}

// Chain implements job.Chainer. It makes no vault: a tenant without one has no backups.
func (r restores) Chain(ctx context.Context, id, tenant string) (job.Chain, error) {
	c := &chain{losses: r.losses, id: id, tenant: tenant}
	opened, err := r.vaults.Existing(ctx, tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return c, nil
	} else if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if c.lineage, err = opened.Lineage(ctx, id); err != nil {
		return nil, err
	}
	c.opened = opened
	return c, nil
}

// Newest implements job.Chain.
func (c *chain) Newest(ctx context.Context) (model.Content, error) {
	if c.opened == nil {
		return model.Content{}, fmt.Errorf("%w: its tenant has no vault", model.ErrNoBackup)
	}
	ref, err := c.lineage.Newest()
	if err != nil && !errors.Is(err, vault.ErrNoBackup) {
		return model.Content{}, err // a fork
	}
	newest := contentOf(c.opened, ref)
	newest.Tenant = c.tenant
	// A bucket that was set back to an earlier state lacks the newest backup, if this host made it.
	if lookErr := c.losses.rolledBack(c.id, c.tenant, c.lineage, newest); lookErr != nil {
		return model.Content{}, lookErr
	}
	if err != nil {
		return model.Content{}, fmt.Errorf("%w: %w", model.ErrNoBackup, err)
	}
	newest.Volumes = volumesIn(ctx, c.opened, ref)
	return newest, nil
}

// Relate implements job.Chain.
func (c *chain) Relate(known, newest model.Content) (prepare.Relation, model.Content) {
	if known.Backup == "" && len(known.Tried) == 0 || c.opened == nil {
		return prepare.RelationNone, known
	}
	id := c.opened.Info().ID
	if known.Vault != "" && known.Vault != id {
		return prepare.RelationNone, known // it belongs to another vault
	}
	known = heardOf(c.lineage, known, id)
	switch {
	case known.Backup == "" || newest.Backup == "":
		return prepare.RelationNone, known
	case known.Backup == newest.Backup:
		return prepare.RelationSame, known
	case c.lineage.Descends(newest.Backup, known.Backup):
		return prepare.RelationAhead, known
	case c.lineage.Descends(known.Backup, newest.Backup):
		return prepare.RelationBehind, known
	}
	return prepare.RelationFork, known
}

// heardOf is this host's knowledge, with the last of
// the backups that it tried and that the vault has.
func heardOf(l *vault.Lineage, known model.Content, vaultID string) model.Content {
	tried := map[string]bool{}
	for _, id := range known.Tried {
		tried[id] = true
	}
	for _, ref := range l.Refs() {
		if tried[ref.ID] {
			known.Backup, known.Seq, known.Created, known.Vault = ref.ID, ref.Seq, ref.Time.UTC(), vaultID
			known.Released = false // the release was of an earlier backup
		}
	}
	return known
}

// lacks tells whether the vault lacks the last backup that this host made, and has no backup on
// top of it either.
func lacks(l *vault.Lineage, newest, last string) bool {
	there := slices.ContainsFunc(l.Refs(), func(r vault.BackupRef) bool { return r.ID == last })
	return !there && !l.Descends(newest, last)
}

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
func (ls *Losses) rolledBack(id, tenant string, lineage *vault.Lineage, newest model.Content) error {
	_, latest, err := ls.journal.ByInstance(id)
	if err != nil || latest == nil || latest.Tenant != tenant || latest.Result == nil {
		return err
	}
	last := model.Content{Backup: latest.Result.BackupID, Seq: latest.Result.Seq}
	if !lacks(lineage, newest.Backup, last.Backup) {
		return nil
	}
	accepted, err := ls.journal.AcceptedLoss(id)
	if err != nil || accepted.Covers(last, newest) {
		return err
	}
	return fmt.Errorf("%w: %s, this host's last; the newest there is %q; if the deletion was meant, `holdfast accept-loss %s` lets the newest there count",
		errRolledBack, last.Backup, newest.Backup, id)
}

// Backup implements job.Restorer.
func (r restores) Backup(ctx context.Context, id, tenant, backup string) (model.Content, error) {
	opened, err := r.vaults.Existing(ctx, tenant)
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

// volumesIn describes each volume of a backup. A manifest that
// can't be read tells nothing: a restore reports its fault.
func volumesIn(ctx context.Context, v *vault.Vault, ref vault.BackupRef) map[string]model.Root {
	m, err := v.Manifest(ctx, ref)
	if err != nil {
		return nil
	}
	roots := map[string]model.Root{}
	for i := range m.Volumes {
		vol := &m.Volumes[i]
		root := model.Root{Kind: model.KindFolder, Entries: vol.Content()}
		if vol.Kind == vault.KindImage {
			root.Kind = model.KindImage
		}
		roots[vol.Name] = root
	}
	return roots
}

// Newest implements job.Restorer. It is a look of its own at the vault.
func (r restores) Newest(ctx context.Context, id, tenant string) (model.Content, error) {
	c, err := r.Chain(ctx, id, tenant)
	if err != nil {
		return model.Content{}, err
	}
	return c.Newest(ctx)
}
