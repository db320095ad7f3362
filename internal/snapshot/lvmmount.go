package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// MountFolder is the folder, with mode 0700, below which the snapshots of LVM are mounted.
// Each has a folder of its own there, also one of a device, which is not mounted:
// GROUP/NAME. It lies in /run, so after a reboot it is as empty as the table of mounts is.
const MountFolder = "/run/holdfast-snapshots"

// unmountPatience is how long a mount that is in use is asked
// again: a scanner of the system may be in it.
const unmountPatience = 5 * time.Second

func mountSnapshot(device, point, kind string) error {
	options := map[string]string{"ext4": "noload", "xfs": "norecovery,nouuid"}[kind]
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount(device, point, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s (%s, ro,%s): %w", device, kind, options, err)
	}
	return nil
}

func makeMountFolder() error {
	if err := unix.Mkdir(MountFolder, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", MountFolder, err)
	}
	dir, err := openOwned(MountFolder)
	if err != nil {
		return err
	}
	return dir.Close()
}

// makeMountPoint makes GROUP/NAME. Another job may remove the empty GROUP between the two steps.
func makeMountPoint(path string) error {
	if err := makeMountFolder(); err != nil {
		return err
	}
	var err error
	for range 100 {
		if err = os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		err = os.Mkdir(path, 0o700)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// unmountSnapshot unmounts all that is mounted at path.
func unmountSnapshot(path string) error {
	for end := time.Now().Add(unmountPatience); ; {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not a mount point (any more)
		case errors.Is(err, unix.EBUSY) && time.Now().Before(end):
			time.Sleep(50 * time.Millisecond)
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// begun lists the folders in MountFolder that are this host's: of all
// snapshots that stand, are about to be made, or about to be removed.
func begun(host string) ([]string, error) {
	folders, err := filepath.Glob(MountFolder + "/*/hf.*")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(folders, func(path string) bool {
		owner, _, _, ok := parseName(filepath.Base(path))
		return !ok || owner != host
	}), nil
}
