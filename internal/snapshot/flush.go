package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// FlushStacked writes out the data that a program wrote to anything mounted or stacked on a
// volume and that is not in the volume yet: a file system in an image file, on a device or on
// one of its partitions, be it through a loop device, a network block device, dm-crypt, LVM or
// RAID, and in any mount namespace. For a folder it does so for the images in it. Providers
// call it before they make a view, so that the view holds the data that its instance wrote.
//
// It returns a sentence for a person for each mount or device that it could not flush:
// data that was written there may be missing in a view.
func FlushStacked(ctx context.Context, volume string) []string {
	real, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return []string{fmt.Sprintf("what is mounted on %s can't be found: %v", volume, err)}
	}
	f := &flusher{ctx: ctx, done: map[uint64]bool{}}
	target := stackTarget{path: real}
	if err := unix.Stat(real, &target.stat); err != nil {
		return []string{fmt.Sprintf("what is mounted on %s can't be found: %v", volume, err)}
	}
	if f.loops, err = loopDevices(); err != nil {
		f.lack("what is mounted on %s can't be found: %v", volume, err)
	}
	f.servers(&target)
	f.over(&target)
	f.named(&target)
	return f.lacks
}

// flusher is one call of FlushStacked.
type flusher struct {
	ctx      context.Context
	loops    []loopDevice
	mounts   []seenMount // of all namespaces; nil until they are read
	complete bool        // all namespaces were looked into
	done     map[uint64]bool
	lacks    []string
}

func (f *flusher) lack(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(f.lacks, text) {
		f.lacks = append(f.lacks, text)
	}
}

// table gives the mounts of all namespaces, which are read once.
func (f *flusher) table() []seenMount {
	if f.mounts == nil {
		var err error
		if f.mounts, f.complete, err = allMounts(); err != nil {
			f.lack("the mounts of this host can't be listed: %v", err)
		}
	}
	return f.mounts
}

// over flushes all that stands on a file, on a device, or on the files of a folder.
func (f *flusher) over(target *stackTarget) {
	for i := range f.loops {
		l := &f.loops[i]
		it, sure := l.standsFor(target)
		if !it || f.done[l.number] {
			continue
		}
		if taken, err := claimed(deviceNode(l.number)); sure || taken || err != nil {
			f.device(l.number, target.path)
		}
	}
	if target.stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		f.device(target.stat.Rdev, target.path)
	}
}

// device flushes the layers on a block device, the topmost first, and then the device.
// on describes the use of the device.
func (f *flusher) device(number uint64, on string) {
	if f.done[number] || f.ctx.Err() != nil {
		return
	}
	f.done[number] = true
	node, name := deviceNode(number), deviceName(number)
	upper := devicesOver(number)
	for _, n := range upper {
		f.device(n, on)
	}
	for i := range f.loops {
		if l := &f.loops[i]; l.known && l.ofDevice == number {
			f.device(l.number, on)
			upper = append(upper, l.number)
		}
	}
	mounted := f.filesystem(number, name, on)
	// device reads the state of the device before its flush. A device that can't be opened does
	// no harm when the file system on it was flushed: that flush writes out the device as well.
	taken, err := claimed(node)
	if ferr := flushDevice(node); err == nil {
		err = ferr
	}
	if taken && !mounted && len(upper) == 0 {
		mounted = f.used(number) == nil
	}
	switch {
	case mounted || len(upper) > 0 && errors.Is(err, os.ErrPermission):
	case err != nil:
		f.lack("%s, which stands on %s, can't be flushed (%v): let the agent open it (DeviceAllow= of its unit), or unmount and detach it",
			name, on, err)
	case taken && len(upper) == 0 && !isSwap(number):
		f.lack("%s, which stands on %s, is in use, and what uses it can't be found%s: unmount and detach it", name, on, f.blind())
	}
}

// blind says why something may not have been found.
func (f *flusher) blind() string {
	if f.table(); f.complete {
		return ""
	}
	return " (the mounts of other namespaces can't be read without CAP_SYS_PTRACE)"
}

// filesystem flushes the file system on a block device and the layers on its files,
// first the layers; false when none is mounted.
func (f *flusher) filesystem(number uint64, name, on string) bool {
	wanted := func(m *seenMount) bool { return m.Device == number }
	same := func(d *os.File) bool {
		var st unix.Stat_t
		return unix.Fstat(int(d.Fd()), &st) == nil && st.Dev == number
	}
	if id := btrfsOf(number); id != "" {
		// A btrfs has a number of its own, and devices that the table of mounts does not name.
		wanted = func(m *seenMount) bool { return m.Kind == NameBtrfs }
		same = func(d *os.File) bool { return fsidText(d) == id }
	}
	var failed error
	mounted, point := false, ""
	for i := range f.table() {
		m := &f.mounts[i]
		if !wanted(m) {
			continue
		}
		if isFuse(m.Kind) {
			f.lack(lacksFuse, m.Point, m.Kind, name)
			return true
		}
		d, err := m.open(same)
		if err != nil {
			if m.Kind != NameBtrfs { // else it may be a mount of another one
				mounted, point, failed = true, m.Point, err
			}
			continue
		}
		mounted, point = true, m.Point
		failed = f.mounted(d)
		d.Close()
		break
	}
	if failed != nil && f.used(number) != nil {
		f.lack("the file system at %s, on %s, which stands on %s, can't be flushed: %v", point, name, on, failed)
	}
	return mounted
}

// used flushes the file system on a block device through a file or folder that a
// process has open there. In this way it reaches a file system that another mount
// hides, or that was unmounted while it was in use.
func (f *flusher) used(number uint64) error {
	for _, pid := range processes() {
		folder := "/proc/" + pid
		paths := []string{folder + "/cwd", folder + "/root"}
		fds, _ := os.ReadDir(folder + "/fd")
		for _, fd := range fds {
			paths = append(paths, folder+"/fd/"+fd.Name())
		}
		for _, path := range paths {
			var st unix.Statx_t
			// The look asks no server of a network or FUSE file system: it may be away, or frozen.
			err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
			kind := st.Mode & unix.S_IFMT
			if err != nil || unix.Mkdev(st.Dev_major, st.Dev_minor) != number || kind != unix.S_IFREG && kind != unix.S_IFDIR {
				continue
			}
			d, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			err = f.mounted(d)
			d.Close()
			return err
		}
	}
	return errors.New("no process has anything open on it")
}

// mounted flushes the file system of d; first the layers on its files.
func (f *flusher) mounted(d *os.File) error {
	for i := range f.loops {
		l := &f.loops[i]
		var st unix.Stat_t
		if !f.done[l.number] && l.known && unix.Fstat(int(d.Fd()), &st) == nil && l.device == st.Dev {
			f.device(l.number, l.backing)
		}
	}
	return durable.SyncFilesystem(int(d.Fd()))
}

// named looks for file systems that name the volume, or a file in it, as their source without a
// device between: eCryptfs, which it flushes, and file systems that a program of the host serves
// from an image through FUSE. (A program that serves a folder writes through to the files there.)
// named never opens a FUSE mount: if its program is frozen, a process that opens the mount hangs.
func (f *flusher) named(target *stackTarget) {
	if target.stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		return // found by its number
	}
	for i := range f.table() {
		m := &f.mounts[i]
		fuse := isFuse(m.Kind)
		if !fuse && m.Kind != "ecryptfs" || fuse && m.pids[0] != ownProcess || !filepath.IsAbs(m.Source) || strings.HasPrefix(m.Source, "/dev/") {
			continue
		}
		source, err := filepath.EvalSymlinks(m.Source)
		if err != nil || !within(target.path, source) {
			continue
		}
		var st unix.Stat_t
		if fuse {
			if unix.Stat(source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				f.lack(lacksFuse, m.Point, m.Kind, source)
			}
			continue
		}
		d, err := m.open(func(d *os.File) bool { return unix.Fstat(int(d.Fd()), &st) == nil && st.Dev == m.Device })
		if err == nil {
			err = f.mounted(d)
			d.Close()
		}
		if err != nil {
			f.lack("the file system at %s, which stands on %s, can't be flushed: %v", m.Point, source, err)
		}
	}
}

// lacksFuse is the sentence about a FUSE mount; it takes the mount point, its kind and its source.
const lacksFuse = "the program that serves the file system at %s (%s), on %s, can't be made to flush it: unmount it"

// isFuse tells whether a program serves file systems of that kind.
func isFuse(kind string) bool {
	return kind == "fuse" || kind == "fuseblk" || strings.HasPrefix(kind, "fuse.") || strings.HasPrefix(kind, "fuseblk.")
}

// servers flushes the devices and file systems that programs make of a volume: a
// program that has an image open may serve a block device (qemu-nbd, ublk) or a file
// system (FUSE) from it. servers looks only at processes of such devices.
func (f *flusher) servers(target *stackTarget) {
	if !servesAny(f.table()) {
		return
	}
	for _, pid := range processes() {
		folder := "/proc/" + pid + "/fd"
		fds, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		has, serves := "", []string(nil)
		for _, fd := range fds {
			path, err := os.Readlink(folder + "/" + fd.Name())
			switch {
			case err != nil:
			case path == "/dev/fuse", strings.HasPrefix(path, "/dev/nbd"), strings.HasPrefix(path, "/dev/ublkc"):
				serves = append(serves, path)
			case target.opened(folder+"/"+fd.Name(), path):
				has = path
			}
		}
		if has == "" {
			continue
		}
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		for _, path := range serves {
			var st unix.Stat_t
			path = strings.Replace(path, "/dev/ublkc", "/dev/ublkb", 1)
			if path == "/dev/fuse" || unix.Stat(path, &st) != nil {
				f.lack("process %s (%s) serves %s through %s and can't be made to flush it: unmount it", pid, strings.TrimSpace(string(name)), has, path)
				continue
			}
			f.device(st.Rdev, has)
		}
	}
}

// opened reports whether a descriptor of a process is the target, or a file in it. link
// is the target of the descriptor's link.
func (t *stackTarget) opened(fd, link string) bool {
	if t.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return within(t.path, link)
	}
	// spares a look at each descriptor of the host
	if filepath.Base(link) != filepath.Base(t.path) {
		return false
	}
	var st unix.Stat_t
	if unix.Stat(fd, &st) != nil {
		return false
	}
	if t.stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		return st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == t.stat.Rdev
	}
	return st.Dev == t.stat.Dev && st.Ino == t.stat.Ino
}

// servesAny tells whether any program of this host serves a block device or a file system.
func servesAny(mounts []seenMount) bool {
	if devices, _ := filepath.Glob("/sys/block/ublkb*"); len(devices) > 0 {
		return true
	}
	if pids, _ := filepath.Glob("/sys/block/nbd*/pid"); len(pids) > 0 {
		return true
	}
	return slices.ContainsFunc(mounts, func(m seenMount) bool { return isFuse(m.Kind) })
}
