package tree

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// projectInherit (FS_XFLAG_PROJINHERIT of linux/fs.h) is the flag of a folder that
// takes only entries with its own project id.
const projectInherit = 0x200

// Movable calls do while nothing at the root of the folder or file at path keeps it from
// being renamed inside its folder: the flags immutable and append only, and a project id
// other than its folder hands down. Afterwards the root has these again, also when it
// was renamed or do failed. Where nothing is at path, do is called all the same. A crash
// in between may leave the root without them. Nobody else changes the root meanwhile.
func Movable(path string, do func() error) error {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return do()
	} else if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer closeFD(fd)
	holder, err := openAt(unix.AT_FDCWD, filepath.Dir(path), openDir, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer closeFD(holder)
	was, err := getExtended(fd, true)
	if err != nil {
		return do() // the file system knows neither
	}
	open := was
	open.set(was.flags() &^ sealing)
	if above, err := getExtended(holder, true); err == nil && above.xflags&projectInherit != 0 {
		open.projid = above.projid
	}
	if open == was {
		return do()
	}
	if err := setExtended(fd, true, open); err != nil {
		return &os.PathError{Op: "make movable", Path: path, Err: err}
	}
	err = do()
	if serr := errors.Join(setExtended(fd, true, was), unix.Fsync(fd)); serr != nil {
		err = errors.Join(err, &os.PathError{Op: "give flags and project id back to what was", Path: path, Err: serr})
	}
	return err
}
