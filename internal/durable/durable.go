// Package durable writes files that are always whole or absent: a crash at any instant
// leaves the old content or the new one under a name, never a part of either.
//
// Its callers are the packages that keep files which must outlive power loss. It starts
// no goroutine. A crash may leave a temporary file (see IsTemporary) beside the file,
// or in the temporary folder of a Tree; SweepTemporary clears that folder.
//
// Some file systems lack a call that this package makes. Hard links have a substitute
// (a rename that replaces nothing). Where the kernel refuses to flush folders, nobody
// can flush them, so that refusal is no error; a Tree tells its caller of it.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// temporaryPrefix begins the name of every temporary file. The "+" keeps it apart from object keys.
const temporaryPrefix = ".holdfast+"

// WriteFile makes data the content of path, atomically and durably, with exactly
// the permissions perm. A symbolic link at path is replaced, not followed. After
// an error the file has its old content or, if only the last flush of the folder
// failed, the new one. Of several writers at once the last wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return inFolder(path, func(o ops, name string) error {
		return write(o, writing{name: name, data: data, perm: perm, replace: true})
	})
}

// Publish is WriteFile for a name that must be free: of several writers, also in other processes,
// exactly one wins, and the others get an error that is fs.ErrExist.
func Publish(path string, data []byte, perm fs.FileMode) error {
	return inFolder(path, func(o ops, name string) error {
		return write(o, writing{name: name, data: data, perm: perm})
	})
}

// MkdirAll makes the folder path and the missing folders above it, durably. A folder
// that exists is no error.
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
	return inFolder(path, func(o ops, _ string) error { return flushFolder(o, ".", nil) })
}

// SyncFolder makes durable which names the folder inside root
// holds, where the file system can flush folders.
func SyncFolder(root *os.Root, folder string) error {
	return flushFolder(rootOps{root}, folder, nil)
}

// IsTemporary tells whether a file of that name was left by a crash of a writer, or belongs to one.
func IsTemporary(name string) bool {
	return strings.HasPrefix(filepath.Base(name), temporaryPrefix)
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
