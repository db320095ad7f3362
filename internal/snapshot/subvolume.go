package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iocSubvolCreate makes an empty subvolume: _IOW(0x94, 14, vol_args) of linux/btrfs.h.
const iocSubvolCreate = 0x5000940e

// MakeFolder makes a folder (mode 0700) for a later volume: on btrfs a subvolume, so
// that a snapshot of it holds the volume and nothing else, elsewhere a plain folder.
// The parent folder must exist; the name must be free.
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

// DestroyFolder removes the subvolume at path with all that it holds, further
// subvolumes first. False says that path is no such subvolume, or that the
// kernel does not let this process do it: then its content has to be removed
// piece by piece (after which a subvolume goes as an empty folder does).
func DestroyFolder(path string) (bool, error) {
	real, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false, nil //nolint:nilerr // the caller, which removes the pieces, reports the fault
	}
	inside, err := subvolumesBelow(filepath.Join(real, filepath.Base(path)))
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	for _, sub := range inside { // the innermost first
		if gone, err := destroy(sub); err != nil || !gone {
			return false, err
		}
	}
	return destroy(path)
}

// subvolumesBelow lists the subvolumes in the subvolume at path, the innermost first;
// none where path is no subvolume.
func subvolumesBelow(path string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Ino != subvolIno {
		return nil, err
	}
	if kind, err := fsKind(path); err != nil || kind != NameBtrfs {
		return nil, err
	}
	root, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found := map[string]uint64{}
	at := &place{volume: path, real: path, root: path, rel: ".", ownToo: true}
	if err := at.subvolumesIn(root, "", found); err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(found)) // a nested subvolume comes after its parent
	slices.Reverse(paths)
	for i := range paths {
		paths[i] = filepath.Join(path, paths[i])
	}
	return paths, nil
}

// destroy is DestroyFolder for a subvolume that holds no further ones.
func destroy(path string) (bool, error) {
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
