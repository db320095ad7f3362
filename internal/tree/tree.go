// Package tree turns a directory tree into entries and entries into a directory tree: names,
// kinds, metadata and holes, never the meaning of content.
//
// internal/backup walks with it, internal/restore builds with it. It is the only package that knows
// how Linux keeps a file's metadata.
package tree

import (
	"errors"
	"fmt"
)

// Kind is the kind of an entry.
type Kind uint8

// The kinds; the numbers are part of the format of a recipe.
const (
	File Kind = iota + 1
	Dir
	Symlink
	Fifo
	Socket
	CharDevice
	BlockDevice
)

// Time is a point in time as the file system keeps it: seconds since 1970 (negative before) and
// nanoseconds, 0 to 999,999,999. Unlike time.Time it compares with == and has no zone.
type Time struct {
	_    struct{} `cbor:",toarray"`
	Sec  int64
	Nsec uint32
}

// Xattr is one extended attribute; ACLs are the attributes system.posix_acl_access and _default.
type Xattr struct {
	_     struct{} `cbor:",toarray"`
	Name  string   // bytes as the kernel gives them
	Value []byte
}

// Entry is one name in a tree with everything that a restore puts back except content.
type Entry struct {
	// Path is relative to the root of the tree: raw bytes, elements separated by '/', no leading or
	// trailing one, no "." or "..". The root itself is "".
	Path   string
	Kind   Kind
	Mode   uint32 // permission, setuid, setgid and sticky bits: 0o7777 at most
	UID    uint32
	GID    uint32
	Mtime  Time
	Size   int64   // files: bytes, holes included; else 0
	Target string  // symlinks: raw bytes
	Major  uint32  // devices
	Minor  uint32  // devices
	Xattrs []Xattr // sorted by name; nil when there are none
	// Flags and Project are the attributes that chattr(1) sets; Root.ReadFlags reads a
	// file's. Project is 0 where the file system counts no projects.
	Flags   Flags
	Project uint32
	// LinkTo is the path of the first entry, in the order of the walk, of the same inode. Set for
	// every further name of a file that has several; such an entry has no content and no metadata.
	LinkTo    string
	HasLinkTo bool
	// Linked says that an entry, which is no folder, has further names, in the tree or
	// outside. It is not part of a recipe.
	Linked bool

	// The fields below tell whether a file changed; they are not part of a recipe.
	Ino   uint64
	Ctime Time
	// Nested says that the entry lies on another device number than the root, in
	// a btrfs subvolume inside: entries of the root have the same inode numbers.
	Nested bool
}

// Warning is something that a walk or a restore could not keep
// exact. The job goes on; it is listed.
type Warning struct {
	Path string
	What string // one sentence without path
	// NoPlace says that the sentence is about the backup or the
	// restore as a whole; else an empty Path is the root.
	NoPlace bool
	// Lost says that content of the tree is not in the backup, or not as it was at one moment. An
	// instance must not be powered down on such a backup.
	Lost bool
}

func (w Warning) String() string {
	if w.NoPlace {
		return w.What
	}
	return fmt.Sprintf("%q: %s", w.Path, w.What)
}

// ErrUnsafePath says that an entry names a place outside the tree or is not of the form of a path.
var ErrUnsafePath = errors.New("unsafe path in tree")
