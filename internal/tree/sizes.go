package tree

import "golang.org/x/sys/unix"

// honest are file systems on whose files a read never gives less or more than the size that stat tells, unless the file
// changed: their reads go through the page cache of this host, which ends at that size. All others are not relied upon. The
// kernel's own file systems (proc, sysfs, cgroup) tell 0 or a page for files of any length, network file systems and those in
// user space tell what somebody else says, and an overlay is as what lies below it.
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

// What linux/magic.h does not name, or x/sys does not.
const (
	erofsMagic    = 0xe0f5e1e2
	bcachefsMagic = 0xca451a4e
	zfsMagic      = 0x2fc12fc1
	ntfs3Magic    = 0x7366746e
)

// HonestSizes says whether the file system is known to tell sizes that reads agree with. On one that is not, a file has
// content whatever its size says, and only a read tells where it ends.
func (r *Root) HonestSizes() bool { return r.honest }

func honestSizes(magic int64) bool { return honest[int64(uint32(magic))] }
