// Package evidence holds the facts of the kernel from which the engine concludes that a file
// which shows the same path, inode, size and times as at the last backup has the same content.
//
// The times of a file are evidence only while its file system stays mounted. A power
// cut can keep data that a program wrote in place and lose the change of the times,
// because the two reach the disk on different ways: afterwards the file has new content
// under old times. So a backup notes the mount that it read (Mount), and a later backup
// believes its notes only while that mount stands. Where the kernel does not identify
// the mount for sure, the backup believes nothing and reads the content.
//
// FileSystem identifies the mounted file system, also across reboots, so that a backup
// can tell a volume from the empty folder that is left where the volume is not mounted.
// ClockOffset shows that the clock was set.
//
// The engine and the agent call the package. It starts no goroutine, keeps no state and
// changes nothing.
package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel names the sources of the facts. Tests put other files there.
type kernel struct {
	bootID  string // file that holds a UUID which is another one after each boot
	sys     string // where sysfs is mounted
	release string // "6.1.0-18-amd64"; "" asks uname(2)
}

var running = kernel{bootID: "/proc/sys/kernel/random/boot_id", sys: "/sys"}

// Mount identifies the mounted file system that the open file lies on: the same
// string as long as the file system stays mounted, however many times and
// wherever, and never the same again after it was unmounted or the host was
// booted. The string is opaque. "" says that the kernel does not tell for sure.
//
// The string also changes when the file system becomes read-only, and when
// ext4 counts an error: a journal that was aborted no longer brings the times
// of a file to the disk, and the kernel may read them from there again.
func Mount(f *os.File) string { return withFD(f, running.mount) }

// MountByFD is Mount for an open descriptor.
func MountByFD(fd int) string { return running.mount(fd) }

// MountOf is Mount for the file or folder at path.
func MountOf(path string) string {
	f, err := open(path)
	if err != nil {
		return ""
	}
	defer f.Close() // only looked at
	return Mount(f)
}

func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func withFD(f *os.File, do func(fd int) string) (s string) {
	raw, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	if err := raw.Control(func(fd uintptr) { s = do(int(fd)) }); err != nil {
		return ""
	}
	return s
}

func (k kernel) mount(fd int) string {
	boot, err := k.boot()
	if err != nil {
		return ""
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return ""
	}
	which, err := k.superblock(fd, fs.Type)
	if err != nil {
		if which, err = mountID(fd); err != nil {
			return ""
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "holdfast mount\x00%s\x00%s\x00%d", boot, which, fs.Flags&unix.ST_RDONLY))
	return hex.EncodeToString(sum[:16])
}

// boot returns the id of this boot. A container manager may mount a file of its own
// over the kernel's. A file on a tmpfs was written since the boot; a file on a disk may
// have survived a reboot, and boot does not believe it.
func (k kernel) boot() (string, error) {
	f, err := open(k.bootID)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return "", err
	}
	if fs.Type != unix.PROC_SUPER_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return "", errors.New("the boot id is a file on a disk")
	}
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return "", err
	}
	if b = bytes.TrimSpace(b); len(b) < 32 {
		return "", errors.New("the boot id is no UUID")
	}
	return string(b), nil
}

// kernfsCounts is the first kernel whose kernfs never gives a number twice: its numbers have
// 64 bits there, and are handed out in ascending order (fs/kernfs/dir.c, __kernfs_new_node).
var kernfsCounts = [2]int{5, 5}

// superblock identifies a mounted superblock by the inode number of its folder in sysfs.
// The kernel makes the folder when the file system is mounted for the first time and
// removes it when the last of its mounts goes, so all mounts of one superblock have the
// same folder. The open file keeps the superblock, so the folder of that name is its own.
func (k kernel) superblock(fd int, magic int64) (string, error) {
	if !k.atLeast(kernfsCounts) || strconv.IntSize < 64 {
		return "", errors.New("numbers of kernfs may come again")
	}
	folder, err := k.folder(fd, magic)
	if err != nil {
		return "", err
	}
	dir, err := open(folder)
	if err != nil {
		return "", err
	}
	defer dir.Close() // only looked at
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(dir.Fd()), &fs), unix.Fstat(int(dir.Fd()), &st)); err != nil {
		return "", err
	}
	if fs.Type != unix.SYSFS_MAGIC {
		return "", fmt.Errorf("%s is not the kernel's", folder)
	}
	which := fmt.Sprintf("%s %d", folder[len(k.sys):], st.Ino)
	if magic == unix.EXT4_SUPER_MAGIC {
		n, err := os.ReadFile(filepath.Join(folder, "errors_count"))
		if err != nil {
			return "", err
		}
		which += " errors " + strings.TrimSpace(string(n))
	}
	return which, nil
}

// folder is the folder of a superblock in sysfs.
func (k kernel) folder(fd int, magic int64) (string, error) {
	kind := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.F2FS_SUPER_MAGIC: "f2fs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	}[magic]
	switch kind {
	case "":
		return "", errors.New("the file system has no folder in sysfs")
	case "btrfs": // it may have many devices, and its subvolumes have numbers of their own
		id, err := btrfsUUID(fd)
		if err != nil {
			return "", err
		}
		return filepath.Join(k.sys, "fs/btrfs", id), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	link, err := os.Readlink(filepath.Join(k.sys, "dev/block", deviceNumber(&st)))
	if err != nil {
		return "", err
	}
	return filepath.Join(k.sys, "fs", kind, filepath.Base(link)), nil
}

func deviceNumber(st *unix.Stat_t) string {
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

func (k kernel) atLeast(want [2]int) bool {
	release := k.release
	if release == "" {
		var u unix.Utsname
		if unix.Uname(&u) != nil {
			return false
		}
		release = unix.ByteSliceToString(u.Release[:])
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > want[0] || major == want[0] && minor >= want[1]
}

// mountID identifies the mount through which the file was opened, by a number that the kernel
// gives once (Linux 6.8). A second mount of the same superblock has another number, which costs
// a full read. The older mount ids are given again after an unmount, and identify nothing.
func mountID(fd int) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return "", err
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return "", errors.New("the kernel gives mount ids again")
	}
	return fmt.Sprintf("mount %d", st.Mnt_id), nil
}
