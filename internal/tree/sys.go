package tree

import (
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// openDir opens a folder to list it, never through a link.
	openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	// beneath keeps a look-up inside the folder it starts from, on the same mount, away from links.
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	// statMask is the set of attributes of an entry: no access time, which no restore puts back.
	statMask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_NLINK | unix.STATX_UID | unix.STATX_GID |
		unix.STATX_MTIME | unix.STATX_CTIME | unix.STATX_INO | unix.STATX_SIZE | unix.STATX_MNT_ID
	// pathMax is the longest path that one system call takes, with its closing NUL.
	pathMax = 4096
)

// fileID tells one file of the running system from every other one.
type fileID struct {
	dev uint64
	ino uint64
	mnt uint64 // 0 where the kernel does not say
}

func idOf(st *unix.Statx_t) fileID {
	id := fileID{dev: uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), ino: st.Ino}
	if st.Mask&unix.STATX_MNT_ID != 0 {
		id.mnt = st.Mnt_id
	}
	return id
}

// statAt fills st with the attributes of name in dirfd, links not followed, automounts
// not started. An empty name means dirfd itself.
func statAt(dirfd int, name string, st *unix.Statx_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		err := unix.Statx(dirfd, name, flags, statMask, st)
		if err != unix.EINTR {
			return err
		}
	}
}

// statName is statAt for a name of a listing, which needs no copy, with more flags.
func statName(dirfd int, name cname, flags int, st *unix.Statx_t) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
			uintptr(unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|flags), statMask, uintptr(unsafe.Pointer(st)), 0)
		if e != unix.EINTR {
			return errnoErr(e)
		}
	}
}

// openAt opens name in dirfd; O_NOATIME among the flags is dropped where only the owner may use it.
func openAt(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EPERM && flags&unix.O_NOATIME != 0:
			flags &^= unix.O_NOATIME
		case err != unix.EINTR:
			return -1, err
		}
	}
}

// openBeneath opens path, of any length, below the folder base. No element may be a link or a mount
// point. An empty path opens base anew.
func openBeneath(base int, path string, flags int) (int, error) {
	if path == "" {
		return openAt(base, ".", flags, 0)
	}
	dir, rest := base, path
	for len(rest) >= pathMax {
		cut := strings.LastIndexByte(rest[:pathMax], '/')
		if cut <= 0 {
			closeUnless(base, dir)
			return -1, unix.ENAMETOOLONG
		}
		fd, err := openat2(dir, rest[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		closeUnless(base, dir)
		if err != nil {
			return -1, err
		}
		dir, rest = fd, rest[cut+1:]
	}
	fd, err := openat2(dir, rest, flags)
	closeUnless(base, dir)
	return fd, err
}

func openat2(dirfd int, path string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: beneath}
	for range 1000 {
		fd, err := unix.Openat2(dirfd, path, &how)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EPERM && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME
		case err != unix.EINTR && err != unix.EAGAIN: // EAGAIN: something was renamed meanwhile
			return -1, err
		}
	}
	return -1, unix.EAGAIN
}

func closeUnless(keep, fd int) {
	if fd != keep {
		closeFD(fd)
	}
}

// closeFD closes a descriptor that nothing was written through, so that there is no error to miss.
func closeFD(fd int) { _ = unix.Close(fd) }

// noXattrAt remembers that the kernel (before 6.13) or a filter has no listxattrat.
var noXattrAt atomic.Bool

// xattrArgs is struct xattr_args of linux/xattr.h.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

// listXattrs puts the NUL-ended names of the attributes of name in dirfd into buf;
// without a name, the attributes of the open descriptor dirfd. It does not follow a link.
func listXattrs(dirfd int, name cname, buf []byte) (int, error) {
	if name == nil {
		return unix.Flistxattr(dirfd, buf)
	}
	if !noXattrAt.Load() {
		n, _, e := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
		if !missingCall(e) {
			return int(n), errnoErr(e)
		}
	}
	var n int
	err := viaProc(dirfd, name.String(), func(path string) (err error) {
		n, err = unix.Llistxattr(path, buf)
		return err
	})
	if err == nil {
		// Only now is it known that the call above failed for being missing, not for the file.
		noXattrAt.Store(true)
	}
	return n, err
}

// getXattr is listXattrs for the value of one attribute. buf must be on the heap.
func getXattr(dirfd int, name cname, attr string, buf []byte) (int, error) {
	if name == nil {
		return unix.Fgetxattr(dirfd, attr, buf)
	}
	if noXattrAt.Load() {
		return getXattrProc(dirfd, name, attr, buf)
	}
	a, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	args := &xattrArgs{value: uint64(uintptr(unsafe.Pointer(&buf[0]))), size: uint32(len(buf))}
	n, _, e := unix.Syscall6(unix.SYS_GETXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args))
	runtime.KeepAlive(buf)
	if missingCall(e) {
		return getXattrProc(dirfd, name, attr, buf)
	}
	return int(n), errnoErr(e)
}

func getXattrProc(dirfd int, name cname, attr string, buf []byte) (n int, err error) {
	err = viaProc(dirfd, name.String(), func(path string) (err error) {
		n, err = unix.Lgetxattr(path, attr, buf)
		return err
	})
	return n, err
}

// missingCall says whether the kernel does not know the call;
// filters of containers answer EPERM too.
func missingCall(e syscall.Errno) bool { return e == unix.ENOSYS || e == unix.EPERM }

func errnoErr(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// pathError names the operation and the path in a form that is safe to print.
func pathError(op, path string, err error) error {
	return &PathError{Op: op, Path: path, Err: err}
}

// PathError says which operation failed on which path of the tree, and why. Its text quotes the
// path, so that names with newlines or escape sequences are harmless in logs and terminals.
type PathError struct {
	Op   string
	Path string // relative to the root of the tree, raw bytes
	Err  error
}

func (e *PathError) Error() string { return e.Op + " " + quote(e.Path) + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *PathError) Unwrap() error { return e.Err }
