package tree

import (
	"cmp"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags are the inode flags of a file or folder that chattr(1) shows and sets, as FS_IOC_GETFLAGS
// gives them (ioctl_iflags(2), linux/fs.h). The numbers are part of the format of a recipe.
type Flags uint32

// The flags that a user can set on some file system, and that say something of the
// file. The list leaves out flags that a file system sets by itself, flags that
// describe the layout on its disk (extents, index, inline data), and two states that
// nobody can set back: encrypted and verity, of which a walk warns.
const (
	SecureDelete   Flags = 1 << 0  // s
	Undeletable    Flags = 1 << 1  // u
	Compress       Flags = 1 << 2  // c
	Sync           Flags = 1 << 3  // S
	Immutable      Flags = 1 << 4  // i
	AppendOnly     Flags = 1 << 5  // a
	NoDump         Flags = 1 << 6  // d
	NoAtime        Flags = 1 << 7  // A
	NoCompress     Flags = 1 << 10 // m
	JournalData    Flags = 1 << 14 // j
	NoTail         Flags = 1 << 15 // t
	DirSync        Flags = 1 << 16 // D
	TopDir         Flags = 1 << 17 // T
	NoCow          Flags = 1 << 23 // C
	DAX            Flags = 1 << 25 // x
	ProjectInherit Flags = 1 << 29 // P
	Casefold       Flags = 1 << 30 // F
)

// flagNames are the letters of chattr(1) and the words for messages.
var flagNames = []struct {
	flag Flags
	name string
}{
	{SecureDelete, "secure deletion (s)"},
	{Undeletable, "undeletable (u)"},
	{Compress, "compressed (c)"},
	{Sync, "synchronous (S)"},
	{Immutable, "immutable (i)"},
	{AppendOnly, "append only (a)"},
	{NoDump, "no dump (d)"},
	{NoAtime, "no access times (A)"},
	{NoCompress, "not compressed (m)"},
	{JournalData, "journalled data (j)"},
	{NoTail, "no tail merging (t)"},
	{DirSync, "synchronous folder (D)"},
	{TopDir, "top of folder hierarchies (T)"},
	{NoCow, "no copy on write (C)"},
	{DAX, "direct access (x)"},
	{ProjectInherit, "project is inherited (P)"},
	{Casefold, "case is ignored (F)"},
}

// AllFlags are the flags that an Entry may have.
const AllFlags = SecureDelete | Undeletable | Compress | Sync | Immutable | AppendOnly | NoDump | NoAtime | NoCompress |
	JournalData | NoTail | DirSync | TopDir | NoCow | DAX | ProjectInherit | Casefold

// String names the flags as messages do.
func (f Flags) String() string {
	var names []string
	for _, n := range flagNames {
		if f&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ", ")
}

// extended are the flags that FS_IOC_FSSETXATTR sets too, without touching the others:
// so the flags that keep a file from being changed can come last, when everything else
// is in place. (On btrfs FS_IOC_SETFLAGS sets the way of compression anew.)
const extended = Immutable | AppendOnly | Sync | NoAtime | NoDump | ProjectInherit | DAX

// sealing are the flags that keep a file or folder from being changed, renamed, linked or removed.
const sealing = Immutable | AppendOnly

// extendedBits are the flags of extended in struct fsxattr (linux/fs.h, FS_XFLAG_…).
var extendedBits = []struct {
	flag Flags
	bit  uint32
}{
	{Immutable, 0x8},
	{AppendOnly, 0x10},
	{Sync, 0x20},
	{NoAtime, 0x40},
	{NoDump, 0x80},
	{ProjectInherit, 0x200},
	{DAX, 0x8000},
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags     uint32
	extsize    uint32
	nextents   uint32
	projid     uint32
	cowextsize uint32
	_          [8]byte
}

func (x *fsxattr) flags() Flags {
	var f Flags
	for _, b := range extendedBits {
		if x.xflags&b.bit != 0 {
			f |= b.flag
		}
	}
	return f
}

// set makes f the extended flags of x and keeps all else.
func (x *fsxattr) set(f Flags) {
	for _, b := range extendedBits {
		x.xflags &^= b.bit
		if f&b.flag != 0 {
			x.xflags |= b.bit
		}
	}
}

// fileAttr is struct file_attr of linux/fs.h (Linux 6.17).
type fileAttr struct {
	xflags     uint64
	extsize    uint32
	nextents   uint32
	projid     uint32
	cowextsize uint32
}

const (
	fsGetXattr  = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr  = 0x401c5820 // FS_IOC_FSSETXATTR
	fileGetAttr = 468        // file_getattr, the same on all architectures
	fileSetAttr = 469        // file_setattr
)

// getFlags reads the flags of an open file or folder, all that the file system gives.
func getFlags(fd int) (uint32, error) {
	var f [2]uint32 // the kernel writes an int; FUSE servers have been seen to write a long
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_GETFLAGS, uintptr(unsafe.Pointer(&f)))
	return f[0], errnoErr(e)
}

func setFlags(fd int, flags uint32) error {
	f := [2]uint32{flags}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_SETFLAGS, uintptr(unsafe.Pointer(&f)))
	return errnoErr(e)
}

// getExtended reads the extended flags and the project id of fd: of an open file
// or folder from every kernel, through an O_PATH descriptor from Linux 6.17 on.
func getExtended(fd int, opened bool) (x fsxattr, err error) {
	if opened {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsGetXattr, uintptr(unsafe.Pointer(&x)))
		return x, errnoErr(e)
	}
	err = viaProc(fd, "", func(path string) (err error) {
		x, err = getAttrAt(unix.AT_FDCWD, cname(path+"\x00"), 0)
		return err
	})
	return x, err
}

// getAttrAt reads the extended flags and the project id of name in dirfd; nothing is opened.
func getAttrAt(dirfd int, name cname, flags int) (fsxattr, error) {
	var a fileAttr
	e := attrCall(fileGetAttr, dirfd, name, flags, &a)
	return fsxattr{xflags: uint32(a.xflags), extsize: a.extsize, nextents: a.nextents, projid: a.projid, cowextsize: a.cowextsize}, errnoErr(e)
}

// setExtended is the counterpart of getExtended.
func setExtended(fd int, opened bool, x fsxattr) error {
	if opened {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsSetXattr, uintptr(unsafe.Pointer(&x)))
		return errnoErr(e)
	}
	a := fileAttr{xflags: uint64(x.xflags), extsize: x.extsize, nextents: x.nextents, projid: x.projid, cowextsize: x.cowextsize}
	return viaProc(fd, "", func(path string) error {
		return errnoErr(attrCall(fileSetAttr, unix.AT_FDCWD, cname(path+"\x00"), 0, &a))
	})
}

// noAttrAt remembers that the kernel (before 6.17) or a filter has no file_getattr.
var noAttrAt atomic.Bool

// attrCall asks with a path also for open descriptors: both calls refuse O_PATH descriptors.
func attrCall(call uintptr, dirfd int, name cname, flags int, a *fileAttr) syscall.Errno {
	if noAttrAt.Load() {
		return unix.ENOSYS
	}
	_, _, e := unix.Syscall6(call, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a), uintptr(flags), 0)
	if e == unix.ENOSYS {
		noAttrAt.Store(true)
	}
	return e
}

// noFlags says whether err means that there is nothing like flags or project ids on that file.
func noFlags(err error) bool {
	switch err {
	case unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EPERM, unix.EACCES, ErrNoProc:
		return true
	}
	return false
}

// lacksFlags says whether err means that this one file has no
// flags, in a file system that keeps them: a refusal does not.
func lacksFlags(err error) bool { return noFlags(err) && err != unix.EPERM && err != unix.EACCES }

// flagsKept says whether a file system keeps flags and project ids.
type flagsKept struct {
	flags    bool // FS_IOC_GETFLAGS answers
	projects bool // files belong to projects
}

// keptBy asks the file system of the folder fd.
func keptBy(fd int, magic int64) flagsKept {
	var k flagsKept
	_, err := getFlags(fd)
	k.flags = err == nil
	// both answer, always 0
	if k.flags && magic != unix.BTRFS_SUPER_MAGIC && magic != unix.TMPFS_MAGIC {
		_, err = getExtended(fd, true)
		k.projects = err == nil
	}
	return k
}

// read puts the flags and the project id of the open file or folder fd into e, as far
// as they can be read.
func (k flagsKept) read(fd int, e *Entry) error {
	if !k.flags {
		return nil
	}
	f, err := getFlags(fd)
	if err == nil {
		e.Flags = Flags(f) & AllFlags
	} else if lacksFlags(err) {
		e.Flags, err = 0, nil
	}
	if !k.projects {
		return err
	}
	x, xerr := getExtended(fd, true)
	if xerr == nil {
		e.Project = x.projid
	} else if lacksFlags(xerr) {
		e.Project, xerr = 0, nil
	}
	return cmp.Or(err, xerr)
}

// HasFlags says whether files of the tree can have inode flags or project ids at all.
func (r *Root) HasFlags() bool { return r.kept.flags }

// ReadFlags puts the inode flags and the project id of f, which Open returned for e,
// into e. A walk leaves them out for files, because they can only be read from an open
// file, which costs as much as the rest of a walk. An error that Ours does not claim is
// a loss: e then has the part that could be read. A caller that keeps e must see to it
// that no later backup takes its flags for known.
func (r *Root) ReadFlags(e *Entry, f *os.File) error {
	if !r.kept.flags {
		return nil
	}
	if err := control(f, func(fd int) error { return r.kept.read(fd, e) }); err != nil {
		return pathError("read flags of", e.Path, err)
	}
	return nil
}

// states are states of a file that no restore puts back.
var states = []struct {
	attribute uint64
	what      string
}{
	{unix.STATX_ATTR_ENCRYPTED, "its content and names are stored as they read, without the encryption by the file system (fscrypt)"},
	{unix.STATX_ATTR_VERITY, "its content is stored, without the seal against changes (fs-verity)"},
}
