package restore

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// renameat2 is the call of the kernel. Only tests change it, to
// stand for a file system that lacks a kind of rename.
var renameat2 = unix.Renameat2

// moveNew renames from to to, where nothing is, or an empty folder in the place of a folder. It
// replaces no file, whatever the file system can: rename(2) by itself puts a file over another
// file. A file on a file system without RENAME_NOREPLACE gets its second name first, and a crash
// before the first name is gone leaves both names; see dropTwin. The caller syncs the folder.
func moveNew(from, to string) error {
	err := renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	var st unix.Stat_t
	if serr := unix.Lstat(from, &st); serr != nil {
		return serr
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Rename(from, to) // over an empty folder, and over nothing else
	}
	if errors.Is(err, unix.EINVAL) {
		err = unix.Link(from, to)
	}
	switch {
	case err == nil, errors.Is(err, unix.EEXIST) && oneFile(from, to):
		return unix.Unlink(from)
	case errors.Is(err, unix.EEXIST):
		return err
	}
	// The file system has no second names either. The window is the time between two calls.
	if at, ierr := Identify(to); ierr != nil {
		return ierr
	} else if at != "" {
		return unix.EEXIST
	}
	return unix.Rename(from, to)
}

// oneFile tells whether both are names of one file.
func oneFile(a, b string) bool {
	x, xerr := os.Lstat(a)
	y, yerr := os.Lstat(b)
	return xerr == nil && yerr == nil && x.Mode().IsRegular() && os.SameFile(x, y)
}

// dropTwin removes the name second of a file that has the name first too,
// as a crash in moveNew leaves it. Anything else at second stays.
func dropTwin(first, second string) error {
	if second == "" || first == second || !oneFile(first, second) {
		return nil
	}
	if err := unix.Unlink(second); err != nil {
		return &os.PathError{Op: "remove the second name", Path: second, Err: err}
	}
	return syncFolder(filepath.Dir(second))
}
