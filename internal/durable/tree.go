package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Tree publishes files inside one folder, with the temporary files in one place
// of it. It is safe for any number of goroutines, and several processes may
// have a Tree of the same folder. The zero value is not usable: see NewTree.
type Tree struct {
	ops     ops
	tmp     string
	lacks   func(Lack)
	flushed sync.Map // folder name -> struct{}: it and all above it are durable
}

// NewTree makes a Tree of root with its temporary files in the folder tmp, which must be there.
// lacks is called whenever the file system turns out to lack something that the Tree does without,
// from any goroutine of a caller. The caller closes root when the Tree is no longer used.
func NewTree(root *os.Root, tmp string, lacks func(Lack)) *Tree {
	return &Tree{ops: rootOps{root}, tmp: tmp, lacks: lacks}
}

// publishTries is more than once for two reasons: somebody may remove an
// empty folder that this Tree has seen, and a sweep of another host may
// remove a temporary file where hosts do not see each other's locks.
const publishTries = 3

// Publish is the function of that name for a file of the Tree. Folders
// that lack on the way to it are made, and are durable before the file is.
func (t *Tree) Publish(name string, data []byte, perm fs.FileMode) (err error) {
	for range publishTries {
		if err = t.mkdirs(filepath.Dir(name)); err != nil {
			return err
		}
		err = write(t.ops, writing{tmp: t.tmp, name: name, data: data, perm: perm, lock: true, lacks: t.lacks})
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		t.flushed.Clear()
	}
	return err
}

// SyncFolder makes durable which names a folder of the Tree holds,
// where the file system can flush folders.
func (t *Tree) SyncFolder(folder string) error { return flushFolder(t.ops, folder, t.lacks) }

// Probe tries in the temporary folder all calls of Publish. It reports the abilities
// that the file system lacks, and fails where Publish would. It leaves nothing behind,
// except that a crash may leave a temporary file.
func (t *Tree) Probe() (err error) {
	for range publishTries { // a sweep may come between the two
		w := writing{
			tmp: t.tmp, name: filepath.Join(t.tmp, temporaryPrefix+"probe-"+rand.Text()), data: []byte("probe"), perm: 0o600,
			lock: true, lacks: t.lacks,
		}
		if err = write(t.ops, w); err == nil {
			err = write(t.ops, w)
			_ = t.ops.remove(w.name)
		}
		switch {
		case errors.Is(err, fs.ErrExist):
			return nil
		case err == nil:
			err = fmt.Errorf("%w: a name that was taken could be taken again", ErrNoExclusive)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return err
}

// mkdirs makes folder and the missing folders above it, and flushes each into its parent.
// A folder that is there already may have been made this instant by a writer that dies
// before it flushes it, so every Tree that writes below a folder flushes it once.
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
	if err := flushFolder(t.ops, above, t.lacks); err != nil {
		return err
	}
	t.flushed.Store(folder, struct{}{})
	return nil
}

// SweepTemporary removes from the folder inside root the temporary files of dead
// writers. Every writer keeps its temporary file locked, and the kernel frees the lock
// with the process, so a file whose lock is free has no writer. SweepTemporary looks at
// no time: clocks jump, and hosts have different ones.
//
// Where the file system has no locks, nobody can tell a dead writer's file from a slow
// writer's. The files stay there, since repeated removals could keep a slow writer from
// ever getting done, and unsure is how many there are. A file that this process may not
// open for writing is left to the sweep of another process.
func SweepTemporary(root *os.Root, folder string) (unsure int, err error) {
	d, err := root.Open(folder)
	if err != nil {
		return 0, err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("read folder %s: %w", folder, err)
	}
	var errs []error
	for _, n := range names {
		if !IsTemporary(n) {
			continue
		}
		switch err := sweep(root, filepath.Join(folder, n)); {
		case noLocks(err):
			unsure++
		case err != nil:
			errs = append(errs, err)
		}
	}
	return unsure, errors.Join(errs...)
}

// sweep removes one temporary file unless it has a writer.
func sweep(root *os.Root, name string) error {
	if fi, err := root.Lstat(name); err != nil || !fi.Mode().IsRegular() {
		return ignore(err, fs.ErrNotExist)
	}
	// It opens for writing, since NFS gives exclusive locks only to writers. O_NONBLOCK
	// keeps it from waiting for a fifo's reader.
	f, err := root.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ignore(err, fs.ErrNotExist, fs.ErrPermission, syscall.EROFS)
	}
	defer func() { _ = f.Close() }()
	unlock, err := lock(f)
	if err != nil {
		return ignore(err, syscall.EWOULDBLOCK)
	}
	// The writer that made the file this instant and has not locked
	// it yet finds it locked or gone, and makes another.
	defer unlock()
	return ignore(root.Remove(name), fs.ErrNotExist, fs.ErrPermission)
}

// ignore returns nil for an error that is one of these.
func ignore(err error, these ...error) error {
	for _, e := range these {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
