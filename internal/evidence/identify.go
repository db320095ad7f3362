package evidence

import (
	"bytes"
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

// DeviceIdentity tells which block device is at the path, the same after a reboot: the id that the
// device mapper keeps of a volume, or that a disk has of itself. "": the kernel tells none.
func DeviceIdentity(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	at := fmt.Sprintf("%s/dev/block/%d:%d/", running.sys, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	read := func(name string) string {
		b, err := os.ReadFile(at + name)
		if err != nil {
			return ""
		}
		return string(bytes.TrimSpace(b))
	}
	if id := read("dm/uuid"); id != "" {
		return "mapped " + id
	}
	if id := read("device/wwid"); id != "" {
		return "disk " + id
	}
	if id, part := read("../device/wwid"), read("partition"); id != "" && part != "" {
		return "disk " + id + " part " + part
	}
	return ""
}
