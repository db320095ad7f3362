package evidence

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Identify tells which folder or file is at the path: the same text for the same one wherever it
// is renamed to on its file system, also after a reboot, and another text for a copy of it. A
// text says nothing beyond its file system (FileSystem). "" says that nothing is at the path.
func Identify(path string) (string, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	switch {
	case err == nil:
		return fmt.Sprintf("handle-%d-%x", handle.Type(), handle.Bytes()), nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return "", nil
	case !errors.Is(err, unix.EOPNOTSUPP):
		return "", &os.PathError{Op: "identify", Path: path, Err: err}
	}
	// Without handles (overlayfs): an inode's number is used again,
	// but not with the time at which it was made.
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", &os.PathError{Op: "identify", Path: path, Err: err}
	}
	return fmt.Sprintf("inode-%d-%d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}
