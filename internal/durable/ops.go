package durable

import (
	"io/fs"
	"os"
)

// ops is what write asks of the file system. Tests put a model with power cuts in its place.
type ops interface {
	create(name string) (file, error)
	rename(from, to string) error
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
	Close() error
}

// folderPerm is for folders made on the way: what lies in a store is sealed, but who has how much is not for others.
const folderPerm = 0o700

// rootOps is the kernel, below one folder: no symbolic link leads out of it.
type rootOps struct{ root *os.Root }

func (o rootOps) create(name string) (file, error) {
	return o.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (o rootOps) rename(from, to string) error { return o.root.Rename(from, to) }
func (o rootOps) link(from, to string) error   { return o.root.Link(from, to) }
func (o rootOps) remove(name string) error     { return o.root.Remove(name) }
func (o rootOps) mkdir(name string) error      { return o.root.Mkdir(name, folderPerm) }

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
