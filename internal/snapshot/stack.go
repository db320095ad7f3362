package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/mounts"
)

// The kernel and programs stack layers on a volume: loop devices on image files, network
// block devices whose server serves an image, partitions, mappings (dm-crypt, LVM,
// multipath), software RAID, and file systems that are mounted on any of them, in any mount
// namespace. All of them can hold data that was written and is not in the volume yet.

// loopDevice is a block device that stands for a file or for another device.
type loopDevice struct {
	name     string
	number   uint64
	backing  string // path of its file or device, as one mount namespace sees it
	known    bool   // the three numbers below were asked of the kernel
	device   uint64 // device number of the file's file system
	inode    uint64
	ofDevice uint64 // device number of the block device that it stands for
}

// loopDevices lists the loop devices that are in use. For a device that this process
// may not open, it knows only the path.
func loopDevices() ([]loopDevice, error) {
	if _, err := os.Stat("/sys/block"); err != nil {
		return nil, fmt.Errorf("list the loop devices: %w", err)
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var loops []loopDevice
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil {
			continue // it was detached just now
		}
		folder := filepath.Dir(filepath.Dir(file))
		l := loopDevice{name: filepath.Base(folder), backing: strings.TrimSuffix(string(backing), "\n")}
		if l.number, err = sysDevice(folder); err != nil {
			continue
		}
		if dev, err := os.OpenFile("/dev/"+l.name, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
			dev.Close()
			if errors.Is(err, unix.ENXIO) {
				continue
			}
			if err == nil {
				l.known, l.device, l.inode, l.ofDevice = true, info.Device, info.Inode, info.Rdevice
			}
		}
		loops = append(loops, l)
	}
	return loops, nil
}

// standsFor reports whether the loop device stands for the file or device want, or for
// a file below the folder want. sure is false where the answer is only likely: the path
// may be from another mount namespace.
func (l *loopDevice) standsFor(want *stackTarget) (it, sure bool) {
	var st unix.Stat_t
	seen := unix.Stat(l.backing, &st) == nil
	switch want.stat.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return l.known && l.ofDevice == want.stat.Rdev || !l.known && seen && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == want.stat.Rdev, true
	case unix.S_IFREG:
		return l.known && l.device == want.stat.Dev && l.inode == want.stat.Ino ||
			!l.known && (seen && st.Dev == want.stat.Dev && st.Ino == want.stat.Ino || l.backing == want.path), true
	}
	if seen && (!l.known || st.Dev == l.device && st.Ino == l.inode) {
		return within(want.path, l.backing), true
	}
	deleted := !seen && strings.HasSuffix(l.backing, " (deleted)") // no folder holds it
	return l.known && l.device == want.stat.Dev && !deleted, false
}

// stackTarget is an object that other layers may be stacked on.
type stackTarget struct {
	path string // without links
	stat unix.Stat_t
}

// sysDevice reads the number of the device that a folder of /sys stands for.
func sysDevice(folder string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(folder, "dev"))
	if err != nil {
		return 0, err
	}
	return mounts.ParseDevice(string(text))
}

// sysFolder is the folder of /sys that tells of a block device.
func sysFolder(number uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number))
}

// deviceNode gives the path of a block device in /dev.
func deviceNode(number uint64) string {
	event, err := os.ReadFile(sysFolder(number) + "/uevent")
	if err == nil {
		for line := range strings.Lines(string(event)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
				return "/dev/" + name
			}
		}
	}
	return fmt.Sprintf("/dev/block/%d:%d", unix.Major(number), unix.Minor(number))
}

// deviceName names a block device for a person: the name of a mapping says more than dm-3.
func deviceName(number uint64) string {
	if name, err := os.ReadFile(sysFolder(number) + "/dm/name"); err == nil {
		return "/dev/mapper/" + strings.TrimSpace(string(name))
	}
	return deviceNode(number)
}

// devicesOver lists the partitions of a block device and the devices that hold it (dm, md, bcache).
func devicesOver(number uint64) []uint64 {
	folder := sysFolder(number)
	var over []uint64
	for _, pattern := range []string{"/holders/*", "/*/partition"} {
		found, _ := filepath.Glob(folder + pattern)
		for _, path := range found {
			if pattern == "/*/partition" {
				path = filepath.Dir(path)
			}
			if n, err := sysDevice(path); err == nil {
				over = append(over, n)
			}
		}
	}
	return over
}

// btrfsOf gives the id of the btrfs that a block device is a part
// of, as /sys writes it; "" when it is of none that is mounted.
func btrfsOf(number uint64) string {
	parts, _ := filepath.Glob("/sys/fs/btrfs/*/devices/*")
	for _, part := range parts {
		if n, err := sysDevice(part); err == nil && n == number {
			return filepath.Base(filepath.Dir(filepath.Dir(part)))
		}
	}
	return ""
}

// isSwap reports whether the kernel swaps to a block device. Then the swap claims the
// device, and there is nothing to flush.
func isSwap(number uint64) bool {
	table, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		var st unix.Stat_t
		fields := strings.Fields(line)
		if len(fields) > 0 && unix.Stat(fields[0], &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == number {
			return true
		}
	}
	return false
}

// ownProcess stands in seenMount for this process.
const ownProcess = "self"

// seenMount is a mount and a process that sees it.
type seenMount struct {
	mounts.Mount
	pids []string // processes of that mount namespace
}

// allMounts lists the mounts of all mount namespaces that have a process.
// complete is false when this process may not look into some of them.
func allMounts() (seen []seenMount, complete bool, err error) {
	own, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil, false, fmt.Errorf("read the table of mounts: %w", err)
	}
	for _, m := range own {
		seen = append(seen, seenMount{m, []string{ownProcess}})
	}
	complete = true
	spaces := map[string][]string{}
	mine, _ := os.Readlink("/proc/self/ns/mnt")
	for _, pid := range processes() {
		space, err := os.Readlink("/proc/" + pid + "/ns/mnt")
		switch {
		case errors.Is(err, os.ErrPermission):
			complete = false
		case err == nil && space != "" && space != mine:
			spaces[space] = append(spaces[space], pid)
		}
	}
	for _, pids := range spaces {
		for _, pid := range pids {
			table, err := mounts.Read("/proc/" + pid + "/mountinfo")
			if errors.Is(err, os.ErrPermission) {
				complete = false
			}
			if err != nil || len(table) == 0 {
				continue // that process has ended; others of the namespace see the same
			}
			for _, m := range table {
				seen = append(seen, seenMount{m, pids})
			}
			break
		}
	}
	return seen, complete, nil
}

// processes lists the ids of all processes.
func processes() []string {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := strconv.Atoi(name)
		return err != nil
	})
}

// open opens the mount's folder or file so that its file system can be
// flushed. wanted tells whether a descriptor is of the file system that
// is looked for: something else may be mounted over the mount point.
func (m *seenMount) open(wanted func(*os.File) bool) (*os.File, error) {
	err := error(unix.ENOENT)
	for _, pid := range m.pids {
		var f *os.File
		if f, err = openInRoot("/proc/"+pid+"/root", m.Point); err != nil {
			continue
		}
		if wanted(f) {
			return f, nil
		}
		f.Close()
		err = errors.New("something else is mounted over it")
	}
	return nil, err
}

// openInRoot opens a folder or file as processes with that root folder see it.
// A symbolic link that a tenant has put on the way does not lead out of it.
func openInRoot(root, path string) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(at, path, &how)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6, or a sandbox
		fd, err = unix.Open(filepath.Join(root, path), int(how.Flags), 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// claimed reports whether the kernel has given a block device to one user alone: to a
// mounted file system, also a file system that no mount namespace shows any more, to a
// mapping, or to a target of a storage network.
func claimed(node string) (bool, error) {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

// flushDevice writes out the kernel's cache of a block device. BLKFLSBUF flushes a file
// system that is mounted on it as well, even where no path leads to that file system.
// BLKFLSBUF returns no errors of the device, so flushDevice asks fsync for them.
func flushDevice(node string) error {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ioctl(f, unix.BLKFLSBUF, nil); err != nil && !errors.Is(err, unix.EACCES) {
		return err
	}
	return f.Sync()
}

// fsidText is the id of the btrfs that f lies on, as /sys writes it.
func fsidText(f *os.File) string {
	info := new(fsInfoArgs)
	if ioctl(f, iocFsInfo, unsafe.Pointer(info)) != nil {
		return ""
	}
	id := info.fsid
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
