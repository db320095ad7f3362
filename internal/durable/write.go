package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// ErrNoExclusive says that a file system has neither hard links nor a rename that
// replaces nothing, so that a name can't be taken in one step that only one writer wins.
var ErrNoExclusive = errors.New("the file system has neither hard links nor a rename that replaces nothing")

// Lack is something that a file system does not have.
type Lack int

// The abilities that a file system may lack.
const (
	LackLinks       Lack = iota // hard links; a rename that replaces nothing takes their place
	LackPermissions             // chmod
	LackFolderSync              // a flush of folders
	LackLocks                   // flock
)

// writing holds the arguments of write.
type writing struct {
	tmp     string // the folder for the temporary file; "" is the folder of name
	name    string
	data    []byte
	perm    fs.FileMode
	replace bool // else the name must be free
	lock    bool // keep the temporary file locked, against SweepTemporary
	// gets each ability that the file system lacks; nil: lacking permissions is an error
	lacks func(Lack)
}

func (w writing) lacking(l Lack) {
	if w.lacks != nil {
		w.lacks(l)
	}
}

// write is the one function of durability. Its calls, in their order, are the subject of the tests.
func write(o ops, w writing) (err error) {
	folder := filepath.Dir(w.name)
	if w.tmp == "" {
		w.tmp = folder
	}
	f, temp, unlock, err := w.create(o)
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			_ = f.Close()
		}
		// From here on a sweep may take the file: it has its name, or never gets it. NFS and FUSE
		// keep a file that is removed while it is open under another name, so it is closed first.
		unlock()
		// After a rename the temporary name is gone, which is no error worth telling. After a
		// failure the caller gets the failure itself, and SweepTemporary removes a file that stays.
		if err != nil || !w.replace {
			_ = o.remove(temp)
		}
	}()
	if _, err := f.Write(w.data); err != nil {
		return err
	}
	// The mask of the process must not decide which users may read a key.
	if err := f.Chmod(w.perm); err != nil {
		if w.lacks == nil || !refused(err) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		w.lacking(LackPermissions)
	}
	// Before the name: a name that is durable ahead of its content is
	// an empty file after power loss.
	if err := f.Sync(); err != nil {
		return err
	}
	open = false
	// Before the name as well: some network file systems tell only
	// here that the content did not arrive.
	if err := f.Close(); err != nil {
		return err
	}
	if w.replace {
		err = o.rename(temp, w.name)
	} else {
		err = w.take(o, temp)
	}
	if err != nil {
		return err
	}
	return flushFolder(o, folder, w.lacks)
}

// createTries bounds how often a sweep may come between the
// creation of a temporary file and its lock.
const createTries = 100

// create makes the temporary file. With w.lock the file stays locked until unlock is called.
//
// A sweep may find the file before it is locked, and remove it. The sweep then holds the lock,
// or the name is gone when this function has the lock. In both cases another file is made.
func (w writing) create(o ops) (f file, temp string, unlock func(), err error) {
	for range createTries {
		temp = filepath.Join(w.tmp, temporaryPrefix+rand.Text())
		if f, err = o.create(temp); err != nil {
			return nil, "", nil, err
		}
		if !w.lock {
			return f, temp, func() {}, nil
		}
		unlock, err = f.Lock()
		if err == nil {
			if err = o.exists(temp); err == nil {
				return f, temp, unlock, nil
			}
			unlock()
		}
		if noLocks(err) {
			w.lacking(LackLocks)
			return f, temp, func() {}, nil
		}
		_ = f.Close()
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = o.remove(temp)
			return nil, "", nil, err
		}
	}
	return nil, "", nil, fmt.Errorf("lock a temporary file in %s: others removed or locked %d in turn: %w", w.tmp, createTries, err)
}

// take gives the temporary file its name, unless the name is taken.
func (w writing) take(o ops, temp string) error {
	lerr := o.link(temp, w.name)
	if !noLink(lerr) {
		return lerr
	}
	switch err := o.renameNew(temp, w.name); {
	case err == nil:
		w.lacking(LackLinks)
		if w.tmp == filepath.Dir(w.name) {
			return nil
		}
		// The old name is to go from the disk as well: on FAT two names of one file are a fault.
		return flushFolder(o, w.tmp, w.lacks)
	case !refused(err):
		return err
	case errors.Is(lerr, fs.ErrPermission) && !errors.Is(lerr, syscall.EPERM), errors.Is(lerr, syscall.EXDEV):
		return lerr // a fault of the folder, not of the file system
	default:
		var link, rename syscall.Errno // without the paths, which are the paths of temporary files
		_, _ = errors.As(lerr, &link), errors.As(err, &rename)
		return fmt.Errorf("%w (link: %w, rename: %w)", ErrNoExclusive, link, rename)
	}
}

// flushFolder makes durable which names a folder holds. A refusal
// to flush any folder is no error, but a Lack.
func flushFolder(o ops, folder string, lacks func(Lack)) error {
	err := o.syncFolder(folder)
	// EBADF comes from file systems that flush only files open for writing, and no
	// folder can be opened for writing.
	if refused(err) || errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EISDIR) {
		if lacks != nil {
			lacks(LackFolderSync)
		}
		return nil
	}
	return err
}

// refused tells whether a file system does not have the call that failed.
func refused(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOTTY)
}

// noLink tells whether another way than link(2) is worth a try. Network file systems disguise that
// they have no links as all kinds of refusals, so it is also true of errors with other causes.
func noLink(err error) bool {
	return refused(err) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EXDEV)
}

func noLocks(err error) bool { return refused(err) || errors.Is(err, syscall.ENOLCK) }
