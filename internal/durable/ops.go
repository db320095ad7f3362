package durable

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ops are the calls that write makes to the file system. Tests put a model with power
// cuts in its place.
type ops interface {
	create(name string) (file, error)
	exists(name string) error // fs.ErrNotExist where there is nothing
	rename(from, to string) error
	renameNew(from, to string) error // fs.ErrExist where there is something at to
	link(from, to string) error
	remove(name string) error
	mkdir(name string) error
	syncFolder(name string) error
}

// file is a new file that is being written.
type file interface {
	Write(p []byte) (int, error)
	Chmod(perm fs.FileMode) error
	Sync() error
	// Lock locks the file until unlock is called, also beyond Close. It
	// does not wait: EWOULDBLOCK says that another has locked the file.
	Lock() (unlock func(), err error)
	Close() error
}

// folderPerm is the mode of folders made on the way: the objects of a store are sealed,
// but other users shall not see how much each tenant stores.
const folderPerm = 0o700

// rootOps is the kernel, below one folder: no symbolic link leads out of it.
type rootOps struct{ root *os.Root }

func (o rootOps) create(name string) (file, error) {
	f, err := o.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return rootFile{f}, nil
}

func (o rootOps) exists(name string) error     { _, err := o.root.Lstat(name); return err }
func (o rootOps) rename(from, to string) error { return o.root.Rename(from, to) }
func (o rootOps) link(from, to string) error   { return o.root.Link(from, to) }
func (o rootOps) remove(name string) error     { return o.root.Remove(name) }
func (o rootOps) mkdir(name string) error      { return o.root.Mkdir(name, folderPerm) }

func (o rootOps) renameNew(from, to string) error {
	source, err := o.root.Open(filepath.Dir(from))
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := o.root.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	err = unix.Renameat2(int(source.Fd()), filepath.Base(from), int(target.Fd()), filepath.Base(to), unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (o rootOps) syncFolder(name string) error {
	d, err := o.root.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

type rootFile struct{ *os.File }

func (f rootFile) Lock() (unlock func(), err error) { return lock(f.File) }

// lock locks a file without waiting for it. A second descriptor
// keeps the lock beyond the file's Close.
func lock(f *os.File) (unlock func(), err error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	unlock = func() { _ = unix.Close(fd) }
	for {
		switch err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err { //nolint:errorlint // errno itself
		case nil:
			return unlock, nil
		case unix.EINTR:
		default:
			unlock()
			return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}
