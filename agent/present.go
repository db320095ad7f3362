package agent

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
func (v *vaults) Present(ctx context.Context, j *model.Job) error {
	_, err := act(ctx, &v.a.patience, v.asked(j.Tenant), "looking for the backup", presentTime, 0, func(ctx context.Context) (none struct{}, err error) {
		opened, err := v.existing(ctx, j.Tenant)
		if err == nil { // a copy of this host must neither report on the host's held instances nor power them down
			_, err = v.a.looks.see(ctx, opened)
		}
		if err == nil {
			ref := vault.BackupRef{Instance: j.Instance, ID: j.Result.BackupID}
			err = opened.Present(ctx, ref, j.Result.ManifestSHA256, v.mended(j.Tenant))
		}
		if err == nil { // last, since a look that is put would make the folder of a lost vault anew
			err = v.a.looks.fresh(ctx, opened)
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

// asked names the tenant's vault in the store for the patience of a look before a power-down: a
// look that hangs at one vault holds up the looks at that vault, and no others.
func (v *vaults) asked(tenant string) string { return "tenant " + tenant + " in " + v.a.store.String() }

// aloneTime bounds the look for copies of this host before a power-down that needs no other look: a
// store that is silent holds the release up by that, and no longer.
const aloneTime = 5 * time.Second

// Alone implements job.Loner. A store may be a folder on a file system
// that hangs, so the look is left behind when its time is over.
func (v *vaults) Alone(ctx context.Context, j *model.Job) error {
	if v.a.looks.before.silent(j.Tenant) {
		return v.a.standing.allowed()
	}
	_, err := act(ctx, &v.a.patience, v.asked(j.Tenant), "looking for copies of this host in the vault", aloneTime, 0, func(ctx context.Context) (none struct{}, err error) {
		opened, err := v.existing(ctx, j.Tenant)
		if err == nil {
			err = v.a.looks.fresh(ctx, opened)
		}
		return none, err
	})
	if still := v.a.standing.allowed(); still != nil {
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
		v.a.looks.before.quiet(j.Tenant)
	}
	v.a.log.Warn("nobody knows whether a copy of this host uses the vault, right before an instance is powered down; the last look counts",
		keyInstance, j.Instance, keyJob, j.ID, keyError, err.Error())
	return nil
}

// mended logs a part that a vault lacked and has again.
func (v *vaults) mended(tenant string) func(error) {
	return func(err error) {
		v.a.log.Warn("a vault lacked something, and has it again", "tenant", tenant, keyReason, err.Error())
	}
}

// confirmed opens the tenant's vault and looks whether it can still be
// opened from the store. A vault that can't is opened anew by the next
// job: the vault in memory may be another than the vault in the store.
func (v *vaults) confirmed(ctx context.Context, tenant string) (*vault.Vault, error) {
	opened, err := v.of(ctx, tenant)
	if err != nil {
		return nil, err
	}
	err = opened.Confirm(ctx, v.mended(tenant))
	if errors.Is(err, vault.ErrCorrupt) {
		v.drop(tenant, opened)
	}
	return opened, err
}

// errKnown says that a vault is missing in which this host has made backups.
var errKnown = errors.New("this host has made backups in that vault, so the store lost it, or is another than it was")

// notKnown fails where the journal knows a backup in the tenant's vault. A new vault
// in the place of a lost vault would hide the loss, and a new vault in a store that
// is not mounted, or whose URL changed, would lie where nobody looks for it.
func (v *vaults) notKnown(tenant string, nameKey []byte) error {
	id := vault.ID(tenant, nameKey)
	instance, known, err := v.a.journal.KnownIn(id)
	if err != nil || instance == "" {
		return err
	}
	return fmt.Errorf("%w: backup %s of instance %s; see that the disk of the store is mounted, that store.url is right and that nothing removes objects there; "+
		"only where the new store is meant, make the vault by hand", errKnown, known.Backup, instance)
}
