package tree

import (
	"errors"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Some system calls know only paths. An open descriptor has one below /proc/self/fd, where /proc is
// mounted: a chroot or a container may lack it. Each use has another way, or the error ErrNoProc.

// ErrNoProc says that an operation needs /proc on this kernel, and /proc is not mounted.
var ErrNoProc = errors.New("/proc is not mounted here, and this kernel has no other way: mount it with `mount -t proc proc /proc`")

// procMounted reports whether /proc was there at the first call. Another object at that
// path, such as a copy or a user's folder, does not count.
var procMounted = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs("/proc/self/fd", &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
})

// procFD is the path through which system calls that only know paths reach an open descriptor.
func procFD(fd int, name string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if name == "" {
		return p
	}
	return p + "/" + name
}

// viaProc calls do with the path of fd, or of name in the folder fd; ErrNoProc without /proc.
func viaProc(fd int, name string, do func(path string) error) error {
	if !procMounted() {
		return ErrNoProc
	}
	return do(procFD(fd, name))
}

// chmodAt sets the mode of the object that fd, an O_PATH descriptor, is open on.
func chmodAt(fd int, mode uint32) error {
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH) // fchmodat2, Linux 6.6
	if err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == unix.EPERM && procMounted() {
		err = viaProc(fd, "", func(path string) error { return unix.Chmod(path, mode) })
	}
	return err
}
