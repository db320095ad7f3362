package tree

import "golang.org/x/sys/unix"

// numbered are file systems on which a file keeps its inode number while it is moved, and on
// which a listing tells the number that a stat tells. An overlay and a file system in user
// space may make numbers up at each look, and a network file system may pass on such numbers.
var numbered = map[int64]bool{
	unix.EXT4_SUPER_MAGIC:  true, // ext2 and ext3 have the same number
	unix.XFS_SUPER_MAGIC:   true,
	unix.BTRFS_SUPER_MAGIC: true,
	unix.F2FS_SUPER_MAGIC:  true,
	unix.TMPFS_MAGIC:       true,
	0x2fc12fc1:             true, // ZFS
	0xca451a4e:             true, // bcachefs
}

// KeepsNumbers says whether an inode number tells a file of the
// tree from every other one, wherever the file is moved.
func (r *Root) KeepsNumbers() bool { return numbered[int64(uint32(r.magic))] }
