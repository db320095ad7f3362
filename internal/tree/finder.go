package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Finder looks entries of a tree up by their paths. It reads no content and changes nothing. It
// is for one goroutine, before its Root is closed.
type Finder struct {
	root *Root
	dir  string
	fd   int // of dir; -1: none is open
	gone bool
}

// Found is what a Finder sees at a path.
type Found struct {
	Stat
	Dir, File bool // else it is neither a folder nor a regular file
}

// Finder begins a look-up of many paths, the fastest in the order of a walk. Close is due.
func (r *Root) Finder() *Finder { return &Finder{root: r, fd: -1} }

// Find looks what is at a path of the tree: fs.ErrNotExist for nothing, also where a folder on
// the way is a link or another file now. What is at the path is not followed.
func (f *Finder) Find(path string) (Found, error) {
	dir, name := splitPath(path)
	if f.fd < 0 && !f.gone || dir != f.dir {
		if err := f.enter(dir); err != nil {
			return Found{}, pathError("look for", path, err)
		}
	}
	if f.gone {
		return Found{}, pathError("look for", path, fs.ErrNotExist)
	}
	var st unix.Statx_t
	if err := statAt(f.fd, name, &st); err != nil {
		return Found{}, pathError("look for", path, err)
	}
	return Found{
		Stat: Stat{
			Ino: st.Ino, Size: int64(st.Size),
			Mtime: Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec}, Ctime: Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec},
		},
		Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, File: st.Mode&unix.S_IFMT == unix.S_IFREG,
	}, nil
}

// enter opens a folder of the tree, and notes one that is not there.
func (f *Finder) enter(dir string) error {
	f.Close()
	fd, err := openBeneath(f.root.fd, dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	f.dir = dir
	switch {
	case err == nil:
		f.fd = fd
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		f.gone = true
		return nil
	}
	return err
}

// Close frees what the Finder holds open. It is idempotent.
func (f *Finder) Close() {
	if f.fd >= 0 {
		closeFD(f.fd)
	}
	f.fd, f.gone = -1, false
}
