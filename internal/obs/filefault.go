package obs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// lacks warns of the abilities that a store's file system lacks, once per Lack.
type lacks struct {
	dir  string
	warn func(string) // or nil

	mu   sync.Mutex
	told map[durable.Lack]bool
}

// lackWords explain the consequence of each Lack for a store.
var lackWords = map[durable.Lack]string{
	durable.LackLinks: "its file system has no hard links, so a rename gives objects their names; on FAT and exFAT a power cut " +
		"can damage a folder: check the file system after one, before the next backup",
	durable.LackPermissions: "its file system keeps no permissions, so the options of its mount decide who may read and delete the sealed objects",
	durable.LackFolderSync: "its file system does not flush folders, so a power cut (of the server, for a network file system) can take " +
		"objects whose backup was confirmed shortly before; holdfast verify finds that",
	durable.LackLocks: "its file system has no locks, so temporary files of writers that died are not removed by themselves",
}

func (l *lacks) tell(lack durable.Lack) {
	l.mu.Lock()
	told := l.told[lack]
	if l.told == nil {
		l.told = map[durable.Lack]bool{}
	}
	l.told[lack] = true
	l.mu.Unlock()
	if !told && l.warn != nil {
		l.warn(fmt.Sprintf("store %s: %s", l.dir, lackWords[lack]))
	}
}

// left warns of temporary files that nobody can tell the writer of.
func (l *lacks) left(n int) {
	if l.warn != nil {
		l.warn(fmt.Sprintf("store %s: %d temporary files lie in its folder %s, and its file system has no locks that would tell whether "+
			"they are in use; remove them while no backup runs", l.dir, n, tempFolder))
	}
}

// there reports whether the path of the store still leads to the folder that is open. On a
// file system whose inode numbers change from look to look only the device can be compared.
func (s *fileStore) there() bool {
	held, err := s.root.Lstat(".")
	if err != nil {
		return false
	}
	now, err := os.Stat(s.dir)
	if err != nil || os.SameFile(held, now) {
		return err == nil
	}
	again, err := s.root.Lstat(".")
	return err == nil && !os.SameFile(held, again) && device(held) == device(now)
}

func device(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Dev
	}
	return 0
}

// fail gives an error of the file system its class and names the operation and the
// object. nil stays nil.
func (s *fileStore) fail(op, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrClosed) && !s.there():
		return fmt.Errorf("%s %s: %w: %s", op, key, ErrNoFolder, s.dir)
	}
	return fmt.Errorf("%s %s: %w", op, key, fileError(s.dir, err))
}

// fileClasses are the classes of the errors of a file system. The first that matches counts.
var fileClasses = []struct {
	class error
	of    []error
}{
	{ErrFileSystem, []error{durable.ErrNoExclusive}},
	{ErrNotFound, []error{fs.ErrNotExist}},
	{ErrExists, []error{fs.ErrExist}},
	{ErrUsage, []error{syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG}},
	{ErrFileSystem, []error{syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EINVAL, syscall.EXDEV, syscall.EMLINK, syscall.ENOTTY}},
	{ErrDiskFull, []error{syscall.ENOSPC}},
	{ErrDiskQuota, []error{syscall.EDQUOT}},
	{ErrFileSize, []error{syscall.EFBIG}},
	{ErrReadOnly, []error{syscall.EROFS}},
	{ErrFolderAccess, []error{fs.ErrPermission}},
	// A disk behind a network may come back, and descriptors get free.
	{ErrDisk, []error{
		syscall.EIO, syscall.ESTALE, syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENOTCONN, syscall.ECONNABORTED,
		syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ENODEV, syscall.ENXIO, syscall.ESHUTDOWN, syscall.EREMOTEIO, unix.EUCLEAN, syscall.EBADMSG,
	}},
	{ErrHostBusy, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOLCK, syscall.EAGAIN, syscall.EBUSY, syscall.EINTR}},
}

// fileError wraps err with the class that fits it. dir is the store's folder.
func fileError(dir string, err error) error {
	for _, c := range fileClasses {
		for _, e := range c.of {
			if !errors.Is(err, e) {
				continue
			}
			class := c.class
			if errors.Is(err, syscall.ENOSPC) && noInodes(dir) {
				class = ErrNoInodes
			}
			return fmt.Errorf("%w: %w", class, bare(err))
		}
	}
	return bare(err)
}

// noInodes tells whether the file system of a folder has no room
// for another file. File systems that count no inodes say 0 of 0.
func noInodes(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Files > 0 && st.Ffree == 0
}

// bare takes the operation and the path off an error: the caller's message names the
// object already, and the path of a temporary file tells a user nothing.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && error(e) == err { //nolint:errorlint // the outermost error only
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok && error(e) == err { //nolint:errorlint // the outermost error only
		return e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok && error(e) == err { //nolint:errorlint // the outermost error only
		return e.Err
	}
	return err
}
