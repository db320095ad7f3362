package evidence

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names of file systems by their magic numbers (statfs(2)). A file system that is not
// here is named by its number.
var kinds = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", // ext2 and ext3 have the same number
	unix.XFS_SUPER_MAGIC:  "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
	unix.FUSE_SUPER_MAGIC: "fuse", unix.SMB2_SUPER_MAGIC: "smb", unix.CIFS_SUPER_MAGIC: "smb", unix.CEPH_SUPER_MAGIC: "ceph",
	unix.V9FS_MAGIC: "9p", unix.SQUASHFS_MAGIC: "squashfs", unix.EROFS_SUPER_MAGIC_V1: "erofs", unix.MSDOS_SUPER_MAGIC: "vfat",
	unix.EXFAT_SUPER_MAGIC: "exfat", unix.ISOFS_SUPER_MAGIC: "iso9660", unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs",
	zfsMagic: "zfs", bcachefsMagic: "bcachefs",
}

const (
	zfsMagic      = 0x2fc12fc1
	bcachefsMagic = 0xca451a4e
)

// Device is FileSystem's name for a block device.
const Device = "block device"

// FileSystem names the file system that the open file lies on: its type and, where the
// file system keeps a UUID on its disk and the kernel tells it, the UUID, as "ext4 0c3f…".
// It is the same after a reboot, for all mounts, and for a snapshot of the file system's
// device. A block device gives "block device". "" says that the kernel did not answer.
func FileSystem(f *os.File) string { return withFD(f, FileSystemByFD) }

// FileSystemOf is FileSystem for the file or folder at path.
func FileSystemOf(path string) string {
	f, err := open(path)
	if err != nil {
		return ""
	}
	defer f.Close() // only looked at
	return FileSystem(f)
}

// FileSystemByFD is FileSystem for an open descriptor.
func FileSystemByFD(fd int) string {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil {
		return ""
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return Device
	}
	kind := kinds[fs.Type]
	if kind == "" {
		kind = fmt.Sprintf("%#x", uint32(fs.Type))
	}
	ask := map[int64]func(int) (string, error){
		unix.EXT4_SUPER_MAGIC: ext4UUID, unix.XFS_SUPER_MAGIC: xfsUUID, unix.BTRFS_SUPER_MAGIC: btrfsUUID,
		unix.F2FS_SUPER_MAGIC: anyUUID, bcachefsMagic: anyUUID,
	}[fs.Type]
	if ask == nil { // a tmpfs has a new UUID with each mount, and an overlay may have one
		return kind
	}
	if id, err := ask(fd); err == nil {
		return kind + " " + id
	}
	return kind
}

// SameFileSystem reports whether two names of FileSystem may be of one file system.
// Where one of them has no UUID, it compares the types alone: a kernel that tells the
// UUID may follow a kernel that does not. "" is like anything.
func SameFileSystem(a, b string) bool {
	if a == "" || b == "" {
		return true
	}
	kindA, idA, _ := strings.Cut(a, " ")
	kindB, idB, _ := strings.Cut(b, " ")
	return kindA == kindB && (idA == "" || idB == "" || idA == idB)
}

// btrfsUUID is by BTRFS_IOC_FS_INFO (linux/btrfs.h).
func btrfsUUID(fd int) (string, error) {
	const fsInfo = 0x8400941f
	var info [1024]byte
	if err := ioctl(fd, fsInfo, unsafe.Pointer(&info)); err != nil {
		return "", err
	}
	return uuid(info[16:32]), nil
}

// xfsUUID is by XFS_IOC_FSGEOMETRY_V1 (fs/xfs/libxfs/xfs_fs.h), which every kernel has.
func xfsUUID(fd int) (string, error) {
	const geometry, at = 0x80705864, 64
	var info [256]byte
	if err := ioctl(fd, geometry, unsafe.Pointer(&info)); err != nil {
		return "", err
	}
	return uuid(info[at : at+16]), nil
}

// ext4UUID is by EXT4_IOC_GETFSUUID (Linux 6.0), else as of any file system.
func ext4UUID(fd int) (string, error) {
	const getUUID = 0x8008662c
	var info struct {
		length, flags uint32
		id            [16]byte
	}
	info.length = uint32(len(info.id))
	if err := ioctl(fd, getUUID, unsafe.Pointer(&info)); err != nil {
		return anyUUID(fd)
	}
	return uuid(info.id[:]), nil
}

// anyUUID is by FS_IOC_GETFSUUID (linux/fs.h, Linux 6.9).
func anyUUID(fd int) (string, error) {
	const getUUID = 0x80111500
	var info struct {
		length uint8
		id     [16]byte
	}
	if err := ioctl(fd, getUUID, unsafe.Pointer(&info)); err != nil {
		return "", err
	}
	if int(info.length) != len(info.id) {
		return "", unix.ENODATA
	}
	return uuid(info.id[:]), nil
}

func uuid(b []byte) string {
	s := hex.EncodeToString(b)
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
