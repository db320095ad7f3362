package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// below finds the devices on which a path rests: the device of its file system, the devices below
// that one (partitions, mappings, RAID), and, where one of them is a loop device, all devices on
// which its image rests. A write to the path waits while a file system on any of them is frozen.
type below struct {
	devices map[uint64]bool
	paths   map[string]bool
}

// restsOn tells whether path, or the nearest folder above it that
// exists, rests on the file system of that device.
func restsOn(path string, device uint64) (bool, error) {
	b := below{devices: map[uint64]bool{}, paths: map[string]bool{}}
	if err := b.path(path); err != nil {
		return false, err
	}
	return b.devices[device], nil
}

func (b *below) path(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	var st unix.Stat_t
	for {
		err := unix.Stat(path, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) || path == filepath.Dir(path) {
			return fmt.Errorf("which file system has %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
	if b.paths[path] {
		return nil
	}
	b.paths[path] = true
	b.device(st.Dev)
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		b.device(st.Rdev)
		return nil
	}
	// A btrfs or an overlay has a number of its own, which is no device.
	m, err := mountOf(path)
	if errors.Is(err, ErrUnsupported) {
		return nil // a pipe or socket, or a mount that this process does not see
	}
	if err != nil {
		return err
	}
	b.device(m.Device)
	switch m.Kind {
	case NameBtrfs:
		return b.btrfs(path)
	case "overlay":
		return b.overlay(m.Super)
	}
	return nil
}

// device adds a device and the devices below it.
func (b *below) device(number uint64) {
	if b.devices[number] {
		return
	}
	b.devices[number] = true
	folder := sysFolder(number)
	under, _ := filepath.Glob(folder + "/slaves/*")
	if _, err := os.Stat(folder + "/partition"); err == nil {
		if real, err := filepath.EvalSymlinks(folder); err == nil {
			under = append(under, filepath.Dir(real))
		}
	}
	for _, path := range under {
		if n, err := sysDevice(path); err == nil {
			b.device(n)
		}
	}
	image, err := os.ReadFile(folder + "/loop/backing_file")
	if err != nil {
		return
	}
	if dev, err := os.OpenFile(deviceNode(number), os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		if info, err := unix.IoctlLoopGetStatus64(int(dev.Fd())); err == nil {
			b.device(info.Device)
			b.device(info.Rdevice)
		}
		dev.Close()
	}
	// the path may be gone; the kernel's facts about it count
	_ = b.path(strings.TrimSuffix(string(image), "\n"))
}

func (b *below) btrfs(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	parts, _ := filepath.Glob("/sys/fs/btrfs/" + fsidText(f) + "/devices/*")
	for _, part := range parts {
		if n, err := sysDevice(part); err == nil {
			b.device(n)
		}
	}
	return nil
}

// overlay adds the devices below the folders of an overlay that it writes to.
func (b *below) overlay(options string) error {
	for option := range strings.SplitSeq(options, ",") {
		for _, key := range []string{"upperdir=", "workdir="} {
			if folder, ok := strings.CutPrefix(option, key); ok {
				if err := b.path(folder); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
