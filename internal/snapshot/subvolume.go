package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iocSubvolCreate makes an empty subvolume: _IOW(0x94, 14, vol_args) of linux/btrfs.h.
const iocSubvolCreate = 0x5000940e

// MakeFolder makes a folder (mode 0700) for what will be a volume: on btrfs a subvolume, so that a snapshot of it holds
// the volume and nothing else, elsewhere a plain folder. The folder that holds it must exist; the name must be free.
func MakeFolder(path string) error {
	holder := filepath.Dir(path)
	kind, err := fsKind(holder)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if kind != NameBtrfs {
		return os.Mkdir(path, 0o700)
	}
	dir, err := os.Open(holder)
	if err != nil {
		return err
	}
	defer dir.Close() // nothing is written through it
	args := volArgs{}
	name := filepath.Base(path)
	if len(name) >= len(args.name) {
		return fmt.Errorf("make subvolume %s: %w", path, unix.ENAMETOOLONG)
	}
	copy(args.name[:], name)
	if err := ioctl(dir, iocSubvolCreate, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("make subvolume %s: %w", path, explain(err))
	}
	return os.Chmod(path, 0o700)
}

// DestroyFolder removes the subvolume at path with all that it holds, in one step. False says that path is no such
// subvolume, or holds further ones, or that the kernel does not let this process do it: then nothing was done, and its content
// has to be removed piece by piece (after which a subvolume goes as an empty folder does).
func DestroyFolder(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Ino != subvolIno {
		return false, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	defer dir.Close() // nothing is written through it
	if kind, err := fsKind(path); err != nil || kind != NameBtrfs {
		return false, err
	}
	err = snapDestroy(dir, filepath.Base(path))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOTTY):
		return false, nil
	}
	return false, fmt.Errorf("remove subvolume %s: %w", path, err)
}
