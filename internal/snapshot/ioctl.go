package snapshot

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The btrfs calls that golang.org/x/sys/unix has no names for, from linux/btrfs.h. The
// numbers follow the kernel's generic ioctl encoding (amd64, arm64, riscv64, …).
const (
	iocSync           = 0x9408     // _IO(0x94, 8)
	iocSnapDestroy    = 0x5000940f // _IOW(0x94, 15, vol_args)
	iocInoLookup      = 0xd0009412 // _IOWR(0x94, 18, ino_lookup_args)
	iocTreeSearchV2   = 0xc0709411 // _IOWR(0x94, 17, search_args_v2)
	iocSnapCreateV2   = 0x50009417 // _IOW(0x94, 23, vol_args_v2)
	iocSubvolGetFlags = 0x80089419 // _IOR(0x94, 25, __u64)
	iocFsInfo         = 0x8400941f // _IOR(0x94, 31, fs_info_args)
	iocGetSubvolInfo  = 0x81f8943c // _IOR(0x94, 60, get_subvol_info_args)
	iocGetRootRef     = 0xd000943d // _IOWR(0x94, 61, get_subvol_rootref_args)

	iocFsGetXattr = 0x801c581f // _IOR('X', 31, struct fsxattr), for all file systems
	xflagRealtime = 1

	subvolReadOnly = 1 << 1
	// subvolIno is the inode number of every subvolume's root (BTRFS_FIRST_FREE_OBJECTID).
	subvolIno = 256
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

type inoLookupArgs struct {
	treeid   uint64
	objectid uint64
	name     [4080]byte
}

type fsInfoArgs struct {
	maxID      uint64
	numDevices uint64
	fsid       [16]byte
	rest       [1024 - 32]byte
}

type timespec struct {
	sec  uint64
	nsec uint32
	_    uint32
}

type subvolInfo struct {
	treeid       uint64
	name         [256]byte
	parentID     uint64
	dirid        uint64
	generation   uint64
	flags        uint64
	uuid         [16]byte
	parentUUID   [16]byte
	receivedUUID [16]byte
	ctransid     uint64 // of the last change; a snapshot has the number of its source
	otransid     uint64 // of the transaction that made it
	stransid     uint64
	rtransid     uint64
	times        [4]timespec
	reserved     [8]uint64
}

type rootRefArgs struct {
	minTreeid uint64
	ref       [255]struct{ treeid, dirid uint64 }
	numItems  uint8
	_         [7]byte
}

type fsxattr struct {
	xflags uint32
	_      [6]uint32
}

// The kernel takes sizes from the call's number: a struct of another size is memory corruption.
var (
	_ [4096 - unsafe.Sizeof(volArgs{})]struct{}
	_ [unsafe.Sizeof(volArgs{}) - 4096]struct{}
	_ [4096 - unsafe.Sizeof(volArgsV2{})]struct{}
	_ [unsafe.Sizeof(volArgsV2{}) - 4096]struct{}
	_ [4096 - unsafe.Sizeof(inoLookupArgs{})]struct{}
	_ [unsafe.Sizeof(inoLookupArgs{}) - 4096]struct{}
	_ [1024 - unsafe.Sizeof(fsInfoArgs{})]struct{}
	_ [unsafe.Sizeof(fsInfoArgs{}) - 1024]struct{}
	_ [504 - unsafe.Sizeof(subvolInfo{})]struct{}
	_ [unsafe.Sizeof(subvolInfo{}) - 504]struct{}
	_ [4096 - unsafe.Sizeof(rootRefArgs{})]struct{}
	_ [unsafe.Sizeof(rootRefArgs{}) - 4096]struct{}
	_ [112 + searchBuffer - unsafe.Sizeof(searchArgs{})]struct{}
	_ [unsafe.Sizeof(searchArgs{}) - 112 - searchBuffer]struct{}
	_ [28 - unsafe.Sizeof(fsxattr{})]struct{}
	_ [unsafe.Sizeof(fsxattr{}) - 28]struct{}
	_ [32 + 56*fiemapBatch - unsafe.Sizeof(fiemapArgs{})]struct{}
	_ [unsafe.Sizeof(fiemapArgs{}) - 32 - 56*fiemapBatch]struct{}
)

func ioctl(f *os.File, req uint, arg unsafe.Pointer) error {
	sc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = sc.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(arg))
	})
	if err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// snapCreate makes a read-only snapshot of the subvolume that source is the root of, in folder dir.
func snapCreate(dir, source *os.File, name string) error {
	args := volArgsV2{fd: int64(source.Fd()), flags: subvolReadOnly}
	if len(name) >= len(args.name) {
		return unix.ENAMETOOLONG
	}
	copy(args.name[:], name)
	return ioctl(dir, iocSnapCreateV2, unsafe.Pointer(&args))
}

func snapDestroy(dir *os.File, name string) error {
	args := volArgs{}
	if len(name) >= len(args.name) {
		return unix.ENAMETOOLONG
	}
	copy(args.name[:], name)
	return ioctl(dir, iocSnapDestroy, unsafe.Pointer(&args))
}

// isReadOnly tells whether the subvolume that f lies in refuses writes.
func isReadOnly(f *os.File) (bool, error) {
	var flags uint64
	err := ioctl(f, iocSubvolGetFlags, unsafe.Pointer(&flags))
	return flags&subvolReadOnly != 0, err
}

func getSubvolInfo(f *os.File) (*subvolInfo, error) {
	info := new(subvolInfo)
	return info, ioctl(f, iocGetSubvolInfo, unsafe.Pointer(info))
}

// fsid is the id of the file system, the same for all its
// subvolumes (statfs mixes the subvolume in).
func fsid(f *os.File) ([16]byte, error) {
	info := new(fsInfoArgs)
	err := ioctl(f, iocFsInfo, unsafe.Pointer(info))
	return info.fsid, err
}

// childFolders gives the folders, as paths below the root of the subvolume that f is the root of
// ("" the root itself), that hold further subvolumes.
func childFolders(f *os.File) ([]string, error) {
	args := new(rootRefArgs)
	seen := map[uint64]bool{}
	var dirs []string
	for {
		err := ioctl(f, iocGetRootRef, unsafe.Pointer(args))
		more := errors.Is(err, unix.EOVERFLOW) // full, and min_treeid moved on to the next
		if err != nil && !more {
			return nil, err
		}
		for _, ref := range args.ref[:args.numItems] {
			if seen[ref.dirid] {
				continue
			}
			seen[ref.dirid] = true
			path, err := inoPath(f, ref.dirid)
			if errors.Is(err, unix.ENOENT) {
				continue // removed between the two calls
			}
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, path)
		}
		if !more {
			return dirs, nil
		}
	}
}

// inoPath gives the path of a folder by its number, below the root of the subvolume that f is in.
func inoPath(f *os.File, ino uint64) (string, error) {
	if ino == subvolIno {
		return "", nil
	}
	args := &inoLookupArgs{objectid: ino} // treeid 0: the subvolume of f
	if err := ioctl(f, iocInoLookup, unsafe.Pointer(args)); err != nil {
		return "", err
	}
	name, _, _ := bytes.Cut(args.name[:], []byte{0})
	return strings.TrimSuffix(string(name), "/"), nil
}
