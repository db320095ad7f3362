package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
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
// Close is due when the last file was opened through it; files outlive it.
type Root struct {
	fd     int
	name   string
	id     fileID
	btrfs  bool
	closed atomic.Bool
	// still: a read-only btrfs snapshot, in which nobody can put one file in another's place.
	still  bool
	magic  int64 // of the file system (statfs(2))
	honest bool  // see HonestSizes
	// noXattrs: the file system keeps no attributes at all, so nobody asks again.
	noXattrs bool
	kept     flagsKept
	readers  sync.Pool // of *xattrReader, for Open and Refresh
	grafts   []graft   // in no order
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
		r.magic, r.honest = sfs.Type, honestSizes(sfs.Type)
		r.btrfs = sfs.Type == unix.BTRFS_SUPER_MAGIC
		r.still = r.btrfs && readOnlySubvolume(fd)
	}
	r.kept = keptBy(fd, sfs.Type)
	_, err = unix.Flistxattr(fd, nil)
	r.noXattrs = err == unix.EOPNOTSUPP
	r.readers.New = func() any { return newXattrReader(r.noXattrs) }
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

// Stat is the part of a file's metadata that changes with its content.
type Stat struct {
	Ino   uint64
	Size  int64
	Mtime Time
	Ctime Time
}

// Restat reads from an open file the facts that Unchanged compares.
func Restat(f *os.File) (Stat, error) {
	var st unix.Stat_t
	err := control(f, func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil {
		return Stat{}, pathError("stat", f.Name(), err)
	}
	return statOf(&st), nil
}

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Ino: st.Ino, Size: st.Size,
		Mtime: Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
		Ctime: Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
	}
}

// Unchanged reports whether the open file f still matches e: the same size, time of
// change of its content and of its metadata. Called after reading, it tells whether the
// read content is of one piece. It does not compare the inode number: an open file stays
// the same file, and some file systems in user space tell another number at every look.
func (r *Root) Unchanged(e *Entry, f *os.File) (bool, error) {
	st, err := Restat(f)
	if err != nil {
		return false, err
	}
	return st == Stat{Ino: st.Ino, Size: e.Size, Mtime: e.Mtime, Ctime: e.Ctime}, nil
}

// Still says whether the tree is a read-only snapshot, in which nothing changes.
func (r *Root) Still() bool { return r.still }

// Settle sees to it that each later change in the tree shows in Ctime: it writes back the
// changes that programs made through shared maps, because otherwise further writes to the
// same page show in no time. It returns the moment that the tree shows: when a read-only
// snapshot was made, else now. ErrSilentChanges where the times can't be relied upon.
func (r *Root) Settle() (time.Time, error) {
	if r.still {
		return snapshotTime(r.fd)
	}
	if !tellsChanges(r.magic) {
		return time.Time{}, silentChanges(r.magic)
	}
	now := time.Now()
	if err := durable.SyncFilesystem(r.fd); err != nil {
		return now, pathError("write back", "", err)
	}
	return now, nil
}

// ErrSilentChanges says that content can change without a new time of change by the host's clock.
var ErrSilentChanges = errors.New("times of change on this file system do not tell of every change")

func silentChanges(magic int64) error {
	return fmt.Errorf("%w (statfs calls its type %#x)", ErrSilentChanges, uint32(magic))
}

// tellsChanges reports whether each change of a file, also a change through a shared map whose
// page was written back before, sets its time of change by the clock of this host. On tmpfs only
// the first write to a mapped page does, because tmpfs writes no pages back. NFS, FUSE and their
// like use the clock of another host or program, and an overlay behaves as its upper layer. So
// the function lists the file systems that do; no caller relies on any other file system.
func tellsChanges(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC: // ext2 and ext3 have the number of ext4
		return true
	}
	return false
}

// snapshotTime returns when the subvolume fd was made
// (linux/btrfs.h, struct btrfs_ioctl_get_subvol_info_args).
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
