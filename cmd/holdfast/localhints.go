package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"holdfast/internal/vault"
)

// localVerdicts are of what happens on this host. They hold for errors that
// no store gave: a folder as a store has errors of the file system too.
var localVerdicts = []struct {
	is error
	verdict
}{
	{vault.ErrNewer, verdict{exitFailed, "", "use a version of holdfast that is at least as new as the one that wrote it; holdfast version tells yours"}},
	{syscall.ENAMETOOLONG, verdict{exitFailed, "", "choose a shorter path or name: a name has at most 255 bytes, a path 4095"}},
	{syscall.EIO, verdict{exitFailed, "", "the disk reports an error: look at the kernel's log (dmesg) and at the disk's health"}},
	{syscall.EBUSY, verdict{exitFailed, "", "something uses it: unmount it, or stop the program (lsof tells which)"}},
	{syscall.ENOTDIR, verdict{exitFailed, "", "a part of that path is a file and no folder: check the path"}},
	{fs.ErrPermission, verdict{exitFailed, "", "this user may not do that: run as the owner of the file or folder, or as root"}},
	{fs.ErrNotExist, verdict{exitFailed, "", "check the path"}},
}

// doubtHint is for an error that leaves open whether a backup
// exists. It comes before the hint of the error's class.
func doubtHint(err error) string {
	if errors.Is(err, vault.ErrMayExist) && !errors.Is(err, context.Canceled) {
		return "holdfast list tells whether the backup exists; the next backup takes a place after it in any case"
	}
	return ""
}
