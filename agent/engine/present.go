package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/internal/contain"
	"holdfast/internal/vault"
)

// Present implements job.Backuper. The vault stays open between
// jobs, so it looks at the store and not at its own memory.
func (b *backups) Present(ctx context.Context, j *model.Job) error {
	_, err := act(ctx, b.patience, b.vaults.asked(j.Tenant), "looking for the backup", presentTime, 0, func(ctx context.Context) (none struct{}, err error) {
		opened, err := b.vaults.Existing(ctx, j.Tenant)
		if err == nil { // a copy of this host must neither report on the host's held instances nor power them down
			_, err = b.looks.see(ctx, opened)
		}
		if err == nil {
			ref := vault.BackupRef{Instance: j.Instance, ID: j.Result.BackupID}
			err = opened.Present(ctx, ref, j.Result.ManifestSHA256, b.vaults.mended(j.Tenant))
		}
		if err == nil { // last, since a look that is put would make the folder of a lost vault anew
			err = b.looks.fresh(ctx, opened)
		}
		return none, err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, vault.ErrNoVault), errors.Is(err, vault.ErrCorrupt), errors.Is(err, vault.ErrWrongKey):
		return fmt.Errorf("%w: %w", job.ErrBackupGone, err)
	}
	return fmt.Errorf("the store can't be asked: %w", err)
}

// asked names the tenant's vault in the store for the patience of a look before a power-down, and
// of the removal of a claim: an act that hangs at one vault holds up the acts at that vault alone.
func (v *Vaults) asked(tenant string) string {
	return "tenant " + tenant + " in " + v.store.String()
}

// aloneTime bounds the look for copies of this host before a power-down that needs no other look: a
// store that is silent holds the release up by that, and no longer.
const aloneTime = 5 * time.Second

// Alone implements job.Loner. A store may be a folder on a file system
// that hangs, so the look is left behind when its time is over.
func (b *backups) Alone(ctx context.Context, j *model.Job) error {
	if b.looks.before.silent(j.Tenant) {
		return b.allowed()
	}
	_, err := act(ctx, b.patience, b.vaults.asked(j.Tenant), "looking for copies of this host in the vault", aloneTime, 0, func(ctx context.Context) (none struct{}, err error) {
		opened, err := b.vaults.Existing(ctx, j.Tenant)
		if err == nil {
			err = b.looks.fresh(ctx, opened)
		}
		return none, err
	})
	if still := b.allowed(); still != nil {
		return still
	}
	switch {
	case err == nil:
		return nil
	case contain.Of(err) != nil:
		return err
	case ctx.Err() != nil: // interrupted, which says nothing of the store
		return context.Cause(ctx)
	case isSilence(err):
		b.looks.before.quiet(j.Tenant)
	}
	b.log.Warn("nobody knows whether a copy of this host uses the vault, right before an instance is powered down; the last look counts",
		keyInstance, j.Instance, keyJob, j.ID, keyError, err.Error())
	return nil
}
