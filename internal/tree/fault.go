package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownFault is an error of what this process uses beside the tree: its temporary file, or /proc.
type ownFault struct{ err error }

func (e *ownFault) Error() string { return e.err.Error() }
func (e *ownFault) Unwrap() error { return e.err }

// OwnFault says whether err, which an operation on an entry of a tree returned, tells of this process or
// this host, and not of the entry: descriptors or memory ran out, a temporary file could not be written,
// the job was ended. Such an error must never become a loss of the entry. It fails the backup, which can
// be tried again. An error that carries no errno counts as one of this process, unless it says that the
// entry is gone or another file.
func OwnFault(err error) bool {
	if err == nil {
		return false
	}
	if _, own := errors.AsType[*ownFault](err); own {
		return true
	}
	for _, own := range []error{context.Canceled, context.DeadlineExceeded, ErrClosed, fs.ErrClosed} {
		if errors.Is(err, own) {
			return true
		}
	}
	if errors.Is(err, ErrChanged) {
		return false
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return !errors.Is(err, fs.ErrNotExist)
	}
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, // this process or host has no more
		unix.ENOSPC, unix.EDQUOT, unix.EROFS, // of something that is written, and a tree is only read
		unix.EBADF, unix.EFAULT, unix.ENOSYS, unix.EINTR: // this program is wrong, or runs where it cannot
		return true
	}
	return false
}

// gone says whether err means that a name is not there any more.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) }

// viaProc judges an error of a call on a path below procFD(dirfd, ""): without /proc, the call says
// that the entry is not there.
func viaProc(dirfd int, err error) error {
	if err == nil || err == unix.ERANGE || err == unix.ENODATA {
		return err
	}
	var st unix.Stat_t
	if perr := unix.Stat(procFD(dirfd, ""), &st); perr != nil {
		return &ownFault{fmt.Errorf("/proc is needed on this kernel, and cannot be used: %w", perr)}
	}
	return err
}
