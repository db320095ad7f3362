package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

func TestJudge(t *testing.T) {
	wrap := func(err error) error {
		return &failure{doing: "restore cp-7", place: "vault default (file:///s)", err: fmt.Errorf("below: %w", err)}
	}
	for _, c := range []struct {
		err     error
		stopped bool
		code    int
		msg     string
		hint    string // part of it
	}{
		{wrap(vault.ErrNoBackup), false, 10, "restore cp-7: no backup of this instance in vault default (file:///s)", "holdfast list"},
		{wrap(&noBackupError{"b-1", true, vault.ErrNoBackup}), false, 10, "restore cp-7: no backup b-1 of this instance in vault default (file:///s)", "holdfast list"},
		{wrap(vault.ErrNoVault), false, 10, "restore cp-7: there is no vault default (file:///s)", "vault create"},
		{wrap(vault.ErrWrongKey), false, 12, "restore cp-7: the key does not open vault default (file:///s)", "--key"},
		{wrap(vault.ErrVaultExists), false, 1, "restore cp-7: there is already a vault default (file:///s)", "--vault"},
		{wrap(&vault.CorruptError{Object: "x", Reason: "is cut off"}), false, 1, "restore cp-7: below: object x: is cut off", "verify"},
		{wrap(restore.ErrTargetExists), false, 1, "restore cp-7: below: " + restore.ErrTargetExists.Error(), "empty"},
		{wrap(obs.ErrNoBucket), false, 10, "restore cp-7: below: no such bucket", "--store"},
		{wrap(obs.ErrAccess), false, 1, "restore cp-7: below: access denied by the store", "credentials"},
		{wrap(obs.ErrWrongKeys), false, 1, "restore cp-7: below: the store does not accept the keys", "secret"},
		{wrap(obs.ErrExpiredKeys), false, 1, "restore cp-7: below: the temporary keys have expired", "new temporary keys"},
		{wrap(obs.ErrClockSkew), false, 1, "restore cp-7: below: this host's clock differs from the store's", "clock"},
		{wrap(obs.ErrWrongRegion), false, 1, "restore cp-7: below: the bucket is in another region", "region"},
		{wrap(obs.ErrNoSpace), false, 1, "restore cp-7: below: the store has no space left", "room"},
		{wrap(obs.ErrNoMoney), false, 1, "restore cp-7: below: the store's account is out of money", "owes"},
		{wrap(syscall.ENOSPC), false, 1, "restore cp-7: below: no space left on device", "make room on that disk"},
		{wrap(syscall.EDQUOT), false, 1, "restore cp-7: below: disk quota exceeded", "raise the quota"},
		{wrap(syscall.EROFS), false, 1, "restore cp-7: below: read-only file system", "mount that file system"},
		{wrap(obs.ErrNoFolder), false, 10, "restore cp-7: below: the store's folder is not there", "mounted"},
		{wrap(obs.ErrFolderAccess), false, 1, "restore cp-7: below: the store's folder does not allow it", "permissions of the store's folder"},
		{wrap(obs.ErrReadOnly), false, 1, "restore cp-7: below: the file system of the store's folder is read-only", "dmesg"},
		{wrap(obs.ErrDiskFull), false, 1, "restore cp-7: below: the disk of the store is full", "df shows"},
		{wrap(obs.ErrNoInodes), false, 1, "restore cp-7: below: the file system of the store has no inodes left", "df -i"},
		{wrap(obs.ErrDiskQuota), false, 1, "restore cp-7: below: the disk quota is used up", "raise the quota"},
		{wrap(obs.ErrFileSystem), false, 1, "restore cp-7: below: the file system of the store's folder cannot hold a store", "another file system"},
		{wrap(obs.ErrDisk), false, 1, "restore cp-7: below: the disk of the store fails", "dmesg"},
		{wrap(obs.ErrUnavailable), false, 1, "restore cp-7: below: store unavailable", "try again"},
		{wrap(&configError{err: errors.New("bad key")}), false, 78, "restore cp-7: below: bad key", ""},
		{wrap(&partError{"2 entries differ"}), false, 3, "restore cp-7: below: 2 entries differ", ""},
		{usagef("missing X"), false, 64, "missing X", "holdfast --help"},
		{errors.New("odd"), false, 1, "odd", ""},
		{wrap(context.Canceled), true, 130, "restore cp-7: interrupted", ""},
		{wrap(errInterrupted), true, 130, "restore cp-7: interrupted", ""},
		// A thing that could not be put back after Ctrl-C is reported.
		{wrap(errors.New("remove snapshot: busy")), true, 130, "restore cp-7: below: remove snapshot: busy", ""},
		{wrap(context.Canceled), false, 1, "restore cp-7: below: context canceled", ""},
	} {
		code, msg, hint := judge(c.err, c.stopped)
		if code != c.code || msg != c.msg || !strings.Contains(hint, c.hint) || (c.hint == "") != (hint == "") {
			t.Errorf("judge(%v, %v) = %d, %q, %q; want %d, %q, …%s…", c.err, c.stopped, code, msg, hint, c.code, c.msg, c.hint)
		}
	}
}
