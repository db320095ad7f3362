package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// ErrChanged says that a path no longer leads to the file that the walk saw there.
var ErrChanged = errors.New("it is another file now than when the tree was walked")

// ErrClosed says that a Root or a Target was used after Close.
var ErrClosed = errors.New("tree is closed")

// Root is a tree that is read. Its methods may be called from several goroutines at once.
// Close is due when the last file opened through it is open; files outlive it.
type Root struct {
	fd     int
	name   string
	id     fileID
	btrfs  bool
	closed atomic.Bool
	// still: a read-only btrfs snapshot, in which nobody can put one file in another's place.
	still bool
	magic int64 // of the file system (statfs(2))
	// noXattrs: the file system keeps no attributes at all, so nobody asks again.
	noXattrs bool
	kept     flagsKept
	grafts   []graft // in no order
}

// OpenRoot opens the tree at path. Links in path itself are followed: it comes from the operator.
func OpenRoot(path string) (*Root, error) {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open tree", Path: path, Err: err}
	}
	r := &Root{fd: fd, name: path}
	var st unix.Statx_t
	if err := statAt(fd, "", &st); err != nil {
		closeFD(fd)
		return nil, &os.PathError{Op: "stat tree", Path: path, Err: err}
	}
	r.id = idOf(&st)
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err == nil {
		r.magic = sfs.Type
		r.btrfs = sfs.Type == unix.BTRFS_SUPER_MAGIC
		r.still = r.btrfs && readOnlySubvolume(fd)
	}
	r.kept = keptBy(fd, sfs.Type)
	_, err = unix.Flistxattr(fd, nil)
	r.noXattrs = err == unix.EOPNOTSUPP
	return r, nil
}

// Close releases the descriptor of the tree. It is idempotent; no walk may be running.
func (r *Root) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	for _, g := range r.grafts {
		closeFD(g.fd)
	}
	return unix.Close(r.fd)
}

// Open opens the content of e, a File of a walk of this tree, for reading. No link and no mount point
// on the way is followed, the access time is left alone where the kernel allows, and nothing but a
// regular file is ever opened: the path is first resolved without opening it, and compared. (A read-only
// snapshot is spared that step, half of the cost: nothing in it can change.)
// A path that is gone or leads to another file gives an error that is ErrChanged.
func (r *Root) Open(e *Entry) (*os.File, error) {
	if r.closed.Load() {
		return nil, pathError("open", e.Path, ErrClosed)
	}
	if e.Kind != File || e.Path == "" {
		return nil, pathError("open", e.Path, errors.New("it is not a regular file"))
	}
	if r.still {
		fd, err := r.openIn(e.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME)
		if err != nil {
			return nil, openError(e.Path, err)
		}
		if err := e.is(fd); err != nil {
			closeFD(fd)
			return nil, err
		}
		return os.NewFile(uintptr(fd), e.Path), nil
	}
	at, err := r.openIn(e.Path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, openError(e.Path, err)
	}
	defer closeFD(at)
	if err := e.is(at); err != nil {
		return nil, err
	}
	fd, err := openAt(unix.AT_FDCWD, procFD(at, ""), unix.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return nil, openError(e.Path, err)
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}

// is returns nil if fd is the regular file of e.
func (e *Entry) is(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", e.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino != e.Ino {
		return pathError("open", e.Path, ErrChanged)
	}
	return nil
}

// readOnlySubvolume says whether fd is the root of a btrfs subvolume that is read-only.
func readOnlySubvolume(fd int) bool {
	const (
		getFlags = 0x80089419 // BTRFS_IOC_SUBVOL_GETFLAGS
		readOnly = 1 << 1     // BTRFS_SUBVOL_RDONLY
	)
	var flags uint64
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getFlags, uintptr(unsafe.Pointer(&flags)))
	return e == 0 && flags&readOnly != 0
}

// openError makes ErrChanged of what the kernel answers when a name went away or became a link.
func openError(path string, err error) error {
	if vanished(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) {
		err = fmt.Errorf("%w (%w)", ErrChanged, err)
	}
	return pathError("open", path, err)
}

// Stat is the part of a file's metadata that changes with its content.
type Stat struct {
	Ino   uint64
	Size  int64
	Mtime Time
	Ctime Time
}

// Restat reads from an open file what Unchanged compares, for instance to read a file again that
// changed meanwhile.
func Restat(f *os.File) (Stat, error) {
	var st unix.Stat_t
	err := control(f, func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil {
		return Stat{}, pathError("stat", f.Name(), err)
	}
	return Stat{
		Ino: st.Ino, Size: st.Size,
		Mtime: Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
		Ctime: Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
	}, nil
}

// Unchanged says whether the open file f is still what e says: the same inode, size, time of
// change of its content and of its metadata. Asked after reading, it tells whether what was read is
// of one piece.
func (r *Root) Unchanged(e *Entry, f *os.File) (bool, error) {
	st, err := Restat(f)
	if err != nil {
		return false, err
	}
	return st == Stat{Ino: e.Ino, Size: e.Size, Mtime: e.Mtime, Ctime: e.Ctime}, nil
}

// Still says whether the tree is a read-only snapshot, in which nothing changes.
func (r *Root) Still() bool { return r.still }

// Settle sees to it that whatever changes in the tree from now on shows in Ctime: it writes back what
// programs changed through shared maps, whose further writes to the same page show in no time otherwise.
// It returns the moment that the tree shows: when a read-only snapshot was made, else now. ErrSilentChanges where
// the times can't be relied upon.
func (r *Root) Settle() (time.Time, error) {
	if r.still {
		return snapshotTime(r.fd)
	}
	if !tellsChanges(r.magic) {
		return time.Time{}, pathError("settle", "", fmt.Errorf("%w (type %#x)", ErrSilentChanges, uint32(r.magic)))
	}
	now := time.Now()
	if err := durable.SyncFilesystem(r.fd); err != nil {
		return now, pathError("write back", "", err)
	}
	return now, nil
}

// ErrSilentChanges says that content can change without a new time of change by the host's clock.
var ErrSilentChanges = errors.New("times of change on this file system do not tell of every change")

// tellsChanges says whether each change of a file, also one through a shared map whose page was written back before, sets
// its time of change by the clock of this host. On tmpfs the first write to a mapped page does and no later one: nothing is
// written back there. NFS, FUSE and their like have the clock of somebody else, and an overlay is as its upper layer is.
// So the ones that do are listed, and a file system that is not known is not relied upon.
func tellsChanges(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC: // ext2 and ext3 have the number of ext4
		return true
	}
	return false
}

// snapshotTime returns when the subvolume fd was made (linux/btrfs.h, struct btrfs_ioctl_get_subvol_info_args).
func snapshotTime(fd int) (time.Time, error) {
	const (
		getInfo = 0x81f8943c // BTRFS_IOC_GET_SUBVOL_INFO
		size    = 504
		otime   = 392
	)
	var info [size]byte
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&info))); e != 0 {
		return time.Time{}, pathError("ask when it was made", "", e)
	}
	return time.Unix(int64(binary.NativeEndian.Uint64(info[otime:])), int64(binary.NativeEndian.Uint32(info[otime+8:]))), nil
}

// control runs do with the descriptor of f, which keeps its mode and stays open meanwhile.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
