package snapshot

import (
	"fmt"

	"golang.org/x/sys/unix"

	"holdfast/internal/mounts"
)

// mountOf gives the mount through which path is seen.
func mountOf(path string) (mounts.Mount, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stx); err != nil {
		return mounts.Mount{}, fmt.Errorf("stat %s: %w", path, err)
	}
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return mounts.Mount{}, err
	}
	for _, m := range table {
		if stx.Mask&unix.STATX_MNT_ID != 0 && m.ID == stx.Mnt_id {
			return m, nil
		}
	}
	return mounts.Mount{}, fmt.Errorf("%w: the kernel does not tell the mount of %s (before Linux 5.8)", ErrUnsupported, path)
}

// mountsBelow lists the mount points below dir that this process sees.
func mountsBelow(dir string) ([]string, error) {
	found, err := Mounts(dir)
	if err != nil {
		return nil, err
	}
	below := found[:0]
	for _, point := range found {
		if point != dir {
			below = append(below, point)
		}
	}
	return below, nil
}

// Mounts lists the mount points that this process sees at the path
// and below it. The path is absolute, clean and without links.
func Mounts(path string) ([]string, error) {
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil, fmt.Errorf("read the table of mounts: %w", err)
	}
	var found []string
	for _, m := range table {
		if within(path, m.Point) {
			found = append(found, m.Point)
		}
	}
	return found, nil
}
