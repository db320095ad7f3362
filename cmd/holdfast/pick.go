package main

import (
	"context"
	"errors"

	"holdfast/internal/vault"
)

// backupOf returns the backup of that id, or the newest complete one of the instance with id "".
func (v *vaultAt) backupOf(ctx context.Context, instance, id string) (vault.BackupRef, error) {
	if id == "" {
		ref, err := v.Newest(ctx, instance)
		var fork *vault.ForkError
		if errors.As(err, &fork) {
			return ref, &hintedError{err, "choose one of them with --backup; holdfast list shows when each was made"}
		}
		return ref, err
	}
	ref, err := v.Find(ctx, instance, id)
	if errors.Is(err, vault.ErrNoBackup) {
		return ref, &noBackupError{id: id, instance: true, err: err}
	}
	return ref, err
}
