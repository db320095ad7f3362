// Package durable writes files that are whole or absent, whatever happens: a crash at any instant
// leaves the old content or the new one under a name, never a part of either.
//
// It is called by whoever keeps a file that must outlive power loss. It starts no goroutine. A crash
// may leave a temporary file (see IsTemporary) beside the file, or in the temporary folder
// of a Tree; RemoveTemporary clears them.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// temporaryPrefix begins the name of every temporary file. The "+" keeps it apart from object keys.
const temporaryPrefix = ".holdfast+"

// WriteFile makes data the content of path, atomically and durably, with exactly the permissions perm.
// A symbolic link at path is replaced, not followed. After an error the file has its old content or,
// if only the last flush of the folder failed, the new one. Of several writers at once the last wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return inFolder(path, func(o ops, name string) error {
		return write(o, "", name, data, perm, true)
	})
}

// Publish is WriteFile for a name that must be free: of several writers, also in other processes,
// exactly one wins, and the others get an error that is fs.ErrExist.
func Publish(path string, data []byte, perm fs.FileMode) error {
	return inFolder(path, func(o ops, name string) error {
		return write(o, "", name, data, perm, false)
	})
}

// Tree publishes files inside one folder, with the temporary files in one place of it. It is safe for
// any number of goroutines, and several processes may have a Tree of the same folder. The zero value
// is not usable: see NewTree.
type Tree struct {
	ops     ops
	tmp     string
	flushed sync.Map // folder name -> struct{}: it and all above it are durable
}

// NewTree makes a Tree of root with its temporary files in the folder tmp, which must be there. The
// caller closes root when the Tree is no longer used.
func NewTree(root *os.Root, tmp string) *Tree { return &Tree{ops: rootOps{root}, tmp: tmp} }

// Publish is the function of that name for a file of the Tree. Folders that lack on the way to it are
// made, and are durable before the file is.
func (t *Tree) Publish(name string, data []byte, perm fs.FileMode) error {
	folder := filepath.Dir(name)
	if err := t.mkdirs(folder); err != nil {
		return err
	}
	err := write(t.ops, t.tmp, name, data, perm, false)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed an empty folder that this Tree had seen.
		t.flushed.Clear()
		if err := t.mkdirs(folder); err != nil {
			return err
		}
		err = write(t.ops, t.tmp, name, data, perm, false)
	}
	return err
}

// mkdirs makes folder and what lacks above it, each flushed into the one above. A folder that is
// there already may have been made this instant by a writer that dies before it flushes it, so each
// is flushed once by every Tree that writes below it.
func (t *Tree) mkdirs(folder string) error {
	if folder == "." {
		return nil
	}
	if _, ok := t.flushed.Load(folder); ok {
		return nil
	}
	above := filepath.Dir(folder)
	if err := t.mkdirs(above); err != nil {
		return err
	}
	if err := t.ops.mkdir(folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := t.ops.syncFolder(above); err != nil {
		return err
	}
	t.flushed.Store(folder, struct{}{})
	return nil
}

// MkdirAll makes the folder path and what lacks above it, durably. One that is there is no error.
func MkdirAll(path string, perm fs.FileMode) error {
	if fi, err := os.Stat(path); err == nil {
		if !fi.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	above := filepath.Dir(path)
	if above != path {
		if err := MkdirAll(above, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return inFolder(path, func(o ops, _ string) error { return o.syncFolder(".") })
}

// SyncFolder makes durable which names the folder inside root holds.
func SyncFolder(root *os.Root, folder string) error {
	return rootOps{root}.syncFolder(folder)
}

// IsTemporary tells whether a file of that name was left by a crash of a writer, or belongs to one.
func IsTemporary(name string) bool {
	return strings.HasPrefix(filepath.Base(name), temporaryPrefix)
}

// RemoveTemporary removes from the folder inside root the temporary files that were last written
// before the instant given. That they vanish meanwhile is no error.
func RemoveTemporary(root *os.Root, folder string, before time.Time) error {
	d, err := root.Open(folder)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read folder %s: %w", folder, err)
	}
	var errs []error
	for _, n := range names {
		if !IsTemporary(n) {
			continue
		}
		name := filepath.Join(folder, n)
		if fi, err := root.Lstat(name); err != nil || !fi.ModTime().Before(before) {
			continue
		}
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func inFolder(path string, do func(o ops, name string) error) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := do(rootOps{root}, filepath.Base(path)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// write is the one function of durability. Its calls, in their order, are the subject of the tests.
func write(o ops, tmp, name string, data []byte, perm fs.FileMode, replace bool) (err error) {
	folder := filepath.Dir(name)
	if tmp == "" {
		tmp = folder
	}
	temp := filepath.Join(tmp, temporaryPrefix+rand.Text())
	f, err := o.create(temp)
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			_ = f.Close()
		}
		// After a rename the name is gone, which is no error worth telling; after a failure the
		// caller learns of that, and RemoveTemporary gets what stays.
		if err != nil || !replace {
			_ = o.remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	// The mask of the process must not decide who may read a key.
	if err := f.Chmod(perm); err != nil {
		return err
	}
	// Before the name: a name that is durable ahead of its content is an empty file after power loss.
	if err := f.Sync(); err != nil {
		return err
	}
	open = false
	if err := f.Close(); err != nil {
		return err
	}
	if replace {
		err = o.rename(temp, name)
	} else {
		err = o.link(temp, name)
	}
	if err != nil {
		return err
	}
	return o.syncFolder(folder)
}
