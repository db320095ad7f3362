package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// copyBlock is how much is read and written at a time, bytes.
const copyBlock = 256 << 10

// copyTree copies the tree a to b on all cores, with owners, modes and times, and ends when the
// disk has the copy. A restore to the same place writes as much, and so is not faster.
func copyTree(a, b string) error {
	var files []string
	var later []func() error
	first := map[uint64]string{}
	err := filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, to := info.Sys().(*syscall.Stat_t), b+strings.TrimPrefix(path, a)
		switch {
		case d.IsDir():
			later = append(later, func() error { return dress(to, st) })
			return os.Mkdir(to, 0o700)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return errors.Join(os.Symlink(target, to), os.Lchown(to, int(st.Uid), int(st.Gid)))
		case !d.Type().IsRegular():
			return nil
		}
		if old, ok := first[st.Ino]; ok && st.Nlink > 1 {
			later = append(later, func() error { return os.Link(old, to) })
			return nil
		}
		first[st.Ino] = to
		files = append(files, path)
		return nil
	})
	if err != nil {
		return err
	}
	var next atomic.Int64
	errs := make([]error, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			block := make([]byte, copyBlock)
			for errs[i] == nil {
				n := next.Add(1) - 1
				if n >= int64(len(files)) {
					return
				}
				errs[i] = copyFile(files[n], b+strings.TrimPrefix(files[n], a), block)
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := len(later) - 1; i >= 0; i-- { // a folder after its content
		if err := later[i](); err != nil {
			return err
		}
	}
	return writeBack(b)
}

// dress gives a folder its owner, mode and times.
func dress(path string, st *syscall.Stat_t) error {
	at := time.Unix(st.Mtim.Unix())
	return errors.Join(os.Chown(path, int(st.Uid), int(st.Gid)), syscall.Chmod(path, st.Mode&0o7777), os.Chtimes(path, at, at))
}

// copyFile copies a file, whose holes stay holes, with block as its buffer.
func copyFile(a, b string, block []byte) error {
	in, err := unix.Open(a, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: a, Err: err}
	}
	defer unix.Close(in) // only read
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	out, err := unix.Open(b, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: b, Err: err}
	}
	err = copyContent(out, in, &st, block)
	if err == nil {
		err = errors.Join(
			unix.Fchown(out, int(st.Uid), int(st.Gid)), unix.Fchmod(out, st.Mode&0o7777),
			unix.UtimesNanoAt(out, "", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, unix.AT_EMPTY_PATH))
	}
	return errors.Join(err, unix.Close(out))
}

func copyContent(out, in int, st *unix.Stat_t, block []byte) error {
	holes := st.Blocks*512 < st.Size
	for at := int64(0); at < st.Size; {
		n, err := unix.Pread(in, block, at)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if !holes || !allZero(block[:n]) {
			if _, err := unix.Pwrite(out, block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	if !holes {
		return nil
	}
	return unix.Ftruncate(out, st.Size)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
