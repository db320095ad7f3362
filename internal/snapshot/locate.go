package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// place has the paths of a volume on a btrfs and of its snapshots.
type place struct {
	volume string // the volume as asked for
	image  bool   // it is a file
	real   string // the same without symbolic links
	root   string // root of the subvolume that contains it
	rel    string // the volume below root; "." for the subvolume itself
	folder string // the snapshot folder; need not exist
	home   string // the folder that holds folder
	ownToo bool   // snapshots made by this program count as subvolumes inside too
}

// locate finds the subvolume that contains the volume. ErrUnsupported says why there are no
// snapshots here; it carries a sentence for a person.
func locate(volume, dir string) (*place, error) {
	real, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	kind, err := fsKind(real)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	if kind != "btrfs" {
		return nil, unsupported("%s lies on %s", volume, kind)
	}
	st, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return nil, unsupported("%s is a device, no file", volume)
	}
	at := &place{volume: volume, real: real, root: real, image: !st.IsDir()}
	for {
		var stx unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, at.root, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO, &stx)
		if err != nil {
			return nil, fmt.Errorf("volume %s: stat %s: %w", volume, at.root, err)
		}
		if stx.Ino == subvolIno {
			break
		}
		// A mount point that is no subvolume's root is a bind mount of a folder: the way up by name
		// leads out of the subvolume, to a place where the volume is not.
		if stx.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return nil, unsupported("the kernel does not tell mount points from folders (before Linux 5.8)")
		}
		if stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return nil, unsupported("%s is a bind mount of a folder, the subvolume around %s can't be reached by path", at.root, volume)
		}
		at.root = filepath.Dir(at.root)
	}
	if at.rel, err = filepath.Rel(at.root, at.real); err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	if at.home, err = snapshotHome(at.real, dir); err != nil {
		return nil, err
	}
	at.folder = filepath.Join(at.home, SnapshotFolder)
	return at, nil
}

// snapshotHome is the folder that holds the snapshot folder: dir, or the parent of the volume.
func snapshotHome(realVolume, dir string) (string, error) {
	if dir == "" {
		return filepath.Dir(realVolume), nil
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("snapshot folder %q: %w: not an absolute path", dir, ErrUsage)
	}
	home, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("snapshot folder %s: %w", dir, err)
	}
	if within(realVolume, home) {
		return "", fmt.Errorf("snapshot folder %s: %w: it lies inside the volume %s and would change its content", dir, ErrUsage, realVolume)
	}
	return home, nil
}

// usable tells whether a snapshot can be made and removed here, and would hold the whole volume.
func (at *place) usable() error {
	if at.real == at.home {
		return unsupported("%s is the root of all folders, there is no place beside it", at.volume)
	}
	root, err := os.Open(at.root)
	if err != nil {
		return fmt.Errorf("volume %s: %w", at.volume, err)
	}
	defer root.Close()
	home, err := os.Open(at.home)
	if err != nil {
		return fmt.Errorf("folder for snapshots of %s: %w", at.volume, err)
	}
	defer home.Close()
	want, err := fsid(root)
	if err != nil {
		return fmt.Errorf("volume %s: id of its file system: %w", at.volume, err)
	}
	if got, err := fsid(home); err != nil || got != want {
		return unsupported("%s, where the snapshots of %s would go, is not on the same btrfs", at.home, at.volume)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, at.home, unix.W_OK, 0); err != nil {
		return unsupported("%s, where the snapshots of %s would go, can't be written: %v", at.home, at.volume, err)
	}
	if err := checkFolder(at.folder); err != nil {
		return err
	}
	// Any owner may make a snapshot, but only CAP_SYS_ADMIN may remove one on a usual mount.
	if !hasSysAdmin() {
		return unsupported("CAP_SYS_ADMIN is missing, and snapshots of %s could not be removed", at.volume)
	}
	return at.nested()
}

// nested fails with ErrNested when something is mounted inside the
// volume. Subvolumes inside are content (see nested.go).
func (at *place) nested() error {
	if at.image {
		return nil
	}
	mounts, err := mountsBelow(at.real)
	if err != nil {
		return fmt.Errorf("volume %s: list the mount points inside: %w", at.volume, err)
	}
	if len(mounts) == 0 {
		return nil
	}
	const most = 5 // more names make no better message
	more := ""
	if len(mounts) > most {
		more = fmt.Sprintf(" and %d more", len(mounts)-most)
		mounts = mounts[:most]
	}
	return fmt.Errorf("volume %s: %w: %s%s would be empty in a snapshot", at.volume, ErrNested, strings.Join(mounts, ", "), more)
}

func (at *place) describe() string {
	if at.rel == "." {
		return fmt.Sprintf("%s is a btrfs subvolume; snapshots go to %s", at.volume, at.folder)
	}
	return fmt.Sprintf("%s lies in the btrfs subvolume %s; snapshots go to %s", at.volume, at.root, at.folder)
}

// within tells whether path is dir or lies below it; both are clean and absolute.
func within(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// hasSysAdmin reads the effective capabilities: root in a sandbox may lack this one.
func hasSysAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// fsKind names the file system that path lies on, for messages and for the choice.
func fsKind(path string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", fmt.Errorf("statfs: %w", err)
	}
	names := map[uint32]string{
		unix.BTRFS_SUPER_MAGIC:     "btrfs",
		unix.EXT4_SUPER_MAGIC:      "ext4",
		unix.XFS_SUPER_MAGIC:       "xfs",
		unix.TMPFS_MAGIC:           "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay",
		unix.F2FS_SUPER_MAGIC:      "f2fs",
		unix.NFS_SUPER_MAGIC:       "nfs",
		unix.FUSE_SUPER_MAGIC:      "fuse",
		0x2fc12fc1:                 "zfs",
	}
	if n, ok := names[uint32(st.Type)]; ok {
		return n, nil
	}
	return fmt.Sprintf("a file system of type %#x", uint32(st.Type)), nil
}

// folderRoom is the room of the file system in which the snapshot folder of req lies.
func folderRoom(ctx context.Context, req Request) (free, total int64, err error) {
	real, err := filepath.EvalSymlinks(req.Volume)
	if err != nil {
		return 0, 0, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	home, err := snapshotHome(real, req.Dir)
	if err != nil {
		return 0, 0, err
	}
	return room(ctx, home)
}

// volumeRoom is the room of the file system that holds the volume; zero for a block device.
func volumeRoom(ctx context.Context, req Request) (free, total int64, err error) {
	st, err := os.Stat(req.Volume)
	if err != nil {
		return 0, 0, fmt.Errorf("volume: %w", err)
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return 0, 0, nil
	}
	return room(ctx, req.Volume)
}

// room asks the file system at path. On btrfs its answer is an estimate: data and metadata have
// separate room, and either may end first.
func room(ctx context.Context, path string) (free, total int64, err error) {
	if ctx.Err() != nil {
		return 0, 0, fmt.Errorf("room at %s: %w", path, context.Cause(ctx))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("room at %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Frsize, int64(st.Blocks) * st.Frsize, nil
}

// RoomAround tells how much space is free, and in all, on the file system from which
// a view takes its space; false where it takes none, or has limits of its own (LVM).
func RoomAround(ref Ref) (free, total int64, ok bool) {
	if ref.Provider != NameBtrfs && ref.Provider != NameReflink {
		return 0, 0, false
	}
	free, total, err := room(context.Background(), filepath.Dir(filepath.Dir(ref.Path)))
	return free, total, err == nil
}
