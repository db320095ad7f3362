package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownFault is an error of a resource of this process beside the tree, for instance its
// temporary file.
type ownFault struct{ err error }

func (e *ownFault) Error() string { return e.err.Error() }
func (e *ownFault) Unwrap() error { return e.err }

// Ours says whether err, which an operation on an entry of a tree returned, tells of this
// process or this host and not of the entry: descriptors or memory ran out, a temporary file
// could not be written, the work was ended. Such an error must never become a loss of the
// entry. It fails the backup, which can be tried again. All other errors are the entry's.
func Ours(err error) bool {
	if _, own := errors.AsType[*ownFault](err); own {
		return true
	}
	for _, ours := range []error{context.Canceled, context.DeadlineExceeded, fs.ErrClosed, ErrClosed, ErrNoProc} {
		if errors.Is(err, ours) {
			return true
		}
	}
	errno, _ := errors.AsType[syscall.Errno](err)
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, // this process or host has no more
		// of something that is written, and a tree is only read
		unix.ENOSPC, unix.EDQUOT, unix.EROFS,
		// this program is wrong, or runs where it cannot
		unix.EBADF, unix.EFAULT, unix.ENOSYS, unix.EINTR:
		return true
	}
	return false
}

// gone says whether err means that a name is not there any more.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) }

// The words of a loss about an entry that is not there in full.
const (
	attrsWrong, attrsSo = "its attributes can't be read", "those are left out"
	flagsWrong, flagsSo = "its flags can't be read", "those are left out"
)

// unread is the sentence that names the fault of an entry and its consequence.
func unread(wrong string, err error, so string) string {
	return fmt.Sprintf("%s (%v), %s", wrong, err, so)
}
