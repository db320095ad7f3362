package tree

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// honest are file systems on whose files a read never gives less or more than the size that stat
// tells, unless the file changed: their reads go through the page cache of this host, which ends
// at that size. All others are not relied upon. The kernel's own file systems (proc, sysfs,
// cgroup) tell 0 or a page for files of any length, network file systems and file systems in
// user space pass on another program's answer, and an overlay behaves as its lower file system.
var honest = map[int64]bool{
	unix.EXT4_SUPER_MAGIC:  true, // ext2 and ext3 have the same number
	unix.XFS_SUPER_MAGIC:   true,
	unix.BTRFS_SUPER_MAGIC: true,
	unix.F2FS_SUPER_MAGIC:  true,
	unix.TMPFS_MAGIC:       true,
	unix.RAMFS_MAGIC:       true,
	unix.MSDOS_SUPER_MAGIC: true,
	unix.EXFAT_SUPER_MAGIC: true,
	unix.ISOFS_SUPER_MAGIC: true,
	unix.UDF_SUPER_MAGIC:   true,
	unix.SQUASHFS_MAGIC:    true,
	erofsMagic:             true,
	bcachefsMagic:          true,
	zfsMagic:               true,
	ntfs3Magic:             true,
}

// File systems that linux/magic.h or x/sys does not name.
const (
	erofsMagic    = 0xe0f5e1e2
	bcachefsMagic = 0xca451a4e
	zfsMagic      = 0x2fc12fc1
	ntfs3Magic    = 0x7366746e
)

// HonestSizes reports whether the file system is known to tell sizes that reads agree with. On any
// other file system, a file may have content beyond its size, and only a read tells where it ends.
func (r *Root) HonestSizes() bool { return r.honest }

// HasHonestSize says so of the file system of the open file f.
func HasHonestSize(f *os.File) bool {
	var st unix.Statfs_t
	err := control(f, func(fd int) error { return unix.Fstatfs(fd, &st) })
	return err == nil && honestSizes(st.Type)
}

func honestSizes(magic int64) bool { return honest[int64(uint32(magic))] }

// ErrEndless says that a file goes on for longer than anybody wants to read.
var ErrEndless = errors.New("it has no end")

// Measure finds out by reads the end of the file f, whose size was given as size; ErrEndless when
// f goes on for more than beyond bytes behind size. It reads the beginning and single bytes.
func Measure(f io.ReaderAt, size, beyond int64) (int64, error) {
	begin := make([]byte, 64<<10)
	// at once: some files of the kernel have no content behind an offset but 0
	n, err := f.ReadAt(begin, 0)
	if errors.Is(err, io.EOF) {
		return int64(n), nil
	} else if err != nil {
		return 0, err
	}
	low := int64(n) // up to there is content
	if size > low {
		has, err := hasByte(f, size-1)
		if err != nil {
			return 0, err
		} else if !has {
			return findEnd(f, low, size-1)
		}
		low = size
	}
	for high, step := low, int64(len(begin)); ; step *= 2 {
		has, err := hasByte(f, high)
		if err != nil {
			return 0, err
		} else if !has {
			return findEnd(f, low, high)
		}
		if low = high + 1; low-size > beyond {
			return 0, ErrEndless
		}
		high = low + step
	}
}

// findEnd returns where the file ends, of which there is content up to low and none at high.
func findEnd(f io.ReaderAt, low, high int64) (int64, error) {
	for low < high {
		middle := low + (high-low)/2
		has, err := hasByte(f, middle)
		if err != nil {
			return 0, err
		}
		if has {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// EndsAt says whether the file f has bytes up to end and none behind.
func EndsAt(f io.ReaderAt, end int64) (bool, error) {
	if end > 0 {
		if has, err := hasByte(f, end-1); err != nil || !has {
			return false, err
		}
	}
	has, err := hasByte(f, end)
	return !has, err
}

func hasByte(f io.ReaderAt, at int64) (bool, error) {
	var b [1]byte
	n, err := f.ReadAt(b[:], at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n == 1, err
}
