package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/backup"
	"holdfast/internal/vault"
)

// forkTime bounds the look at who made the other backups of a fork: an instance is held meanwhile.
const forkTime = 10 * time.Second

// contentOrigin tells the engine from which backup the content of an instance's volumes came. A
// backup in another vault says nothing about this vault.
func contentOrigin(c model.Content, vaultID string) *backup.Origin {
	if c.Vault != "" && c.Vault != vaultID {
		return &backup.Origin{Tried: c.Tried}
	}
	return &backup.Origin{Backup: c.Backup, Tried: c.Tried}
}

// forksOf names the other newest backups beside a stored one, and tells of them.
func (b *backups) forksOf(ctx context.Context, opened *vault.Vault, r job.BackupRequest, res *backup.Result) (forks []model.Fork) {
	if len(res.Fork) == 0 || r.Precopy {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, forkTime)
	defer cancel()
	b.counters.Fork()
	for _, ref := range res.Fork {
		f := model.Fork{Backup: ref.ID}
		if m, err := opened.Manifest(ctx, ref); err == nil { // else nobody knows the host
			f.Host = m.Host
		}
		forks = append(forks, f)
		b.log.Error("a fork: another newest backup of the instance does not have what this one has, and the reverse; holdfast accept-fork decides which one counts",
			keyInstance, r.Instance, keyJob, r.Job, "backup", res.BackupID, "parent", res.Parent, "other", f.Backup, "host", f.Host)
	}
	return forks
}

// AcceptFork implements job.Forker.
func (b *backups) AcceptFork(ctx context.Context, j *model.Job, d model.ForkDecision) (model.ForkDecision, error) {
	opened, err := b.vaults.Existing(ctx, j.Tenant)
	if err != nil {
		return d, fmt.Errorf("open vault: %w", err)
	}
	accept := opened.AcceptFirst
	if d.Again {
		accept = opened.Accept
	}
	over, err := accept(ctx, j.Instance, d.Backup, b.self.Host, d.By)
	var decided *vault.DecidedError
	if errors.As(err, &decided) {
		b.log.Warn("a fork was decided before, for another backup, and the first decision counts", keyInstance, j.Instance, keyJob, j.ID,
			"asked", d.Backup, "accepted", decided.Decision.Backup, "by", decided.Decision.By, "host", decided.Decision.Host)
		return b.decision(decided.Decision), nil
	} else if err != nil {
		return d, err
	}
	for _, ref := range over {
		b.log.Warn("a fork is decided", keyInstance, j.Instance, keyJob, j.ID, "accepted", d.Backup, "over", ref.ID, "by", d.By)
	}
	return d, nil
}

// Decided implements job.Forker.
func (b *backups) Decided(ctx context.Context, j *model.Job) (model.ForkDecision, error) {
	opened, err := b.vaults.Existing(ctx, j.Tenant)
	if err != nil {
		return model.ForkDecision{}, fmt.Errorf("open vault: %w", err)
	}
	d, err := opened.Decided(ctx, j.Instance, j.Result.BackupID)
	if d == nil || err != nil {
		return model.ForkDecision{}, err
	}
	return b.decision(*d), nil
}

// decision is a decision of the vault as the journal has it.
func (b *backups) decision(d vault.Decision) model.ForkDecision {
	made := model.ForkDecision{Backup: d.Backup, By: d.By, Host: d.Host}
	if d.Host == b.self.Host {
		made.Host = ""
	}
	return made
}
