package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// olderWhole gives the error of a restore the hint that names the next
// older complete backup, where the fault lies with the backup's objects
// in the store, and not with this host or the way to the store.
func (a *app) olderWhole(ctx context.Context, at *vaultAt, ref vault.BackupRef, failed error) error {
	if !errors.Is(failed, vault.ErrCorrupt) && !errors.Is(failed, vault.ErrNoBackup) && !errors.Is(failed, obs.ErrCold) {
		return failed
	}
	a.say("note: backup %s can't be restored; looking for an older one that is whole", ref.ID)
	older, err := at.nextWhole(ctx, ref, failed)
	if err != nil || older == "" {
		return failed // the reason of the restore counts
	}
	return &hintedError{failed, "backup " + older + " is the next older one of which all objects are there and open: restore it with --backup " + older}
}

// nextWhole returns the id of the newest complete backup before ref
// of which verify finds nothing wrong, and which does not need the
// object over which the restore of ref failed; "" when there is none.
func (v *vaultAt) nextWhole(ctx context.Context, ref vault.BackupRef, failed error) (string, error) {
	refs, err := v.Backups(ctx, ref.Instance)
	if err != nil {
		return "", err
	}
	for _, older := range slices.Backward(refs) {
		if older.Seq >= ref.Seq || older.Incomplete {
			continue
		}
		if m, err := v.Manifest(ctx, older); err != nil || needs(m, failed) {
			if ctx.Err() != nil {
				return "", err
			}
			continue
		}
		// Only this finds a pack that is missing or cut off.
		report, err := v.Verify(ctx, vault.VerifyOptions{Instance: older.Instance, Backup: older.ID})
		if err != nil {
			return "", err
		}
		if len(report.Damaged)+len(report.Unread) == 0 {
			return older.ID, nil
		}
	}
	return "", nil
}

// needs tells whether a backup needs the object that an error names.
func needs(m *vault.Manifest, failed error) bool {
	var corrupt *vault.CorruptError
	return errors.As(failed, &corrupt) && slices.ContainsFunc(m.Packs, func(p vault.PackRef) bool {
		return strings.HasSuffix(corrupt.Object, "/"+p.ID.String())
	})
}
