package snapshot

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownMounts is the table of the mounts that this process sees.
const ownMounts = "/proc/self/mountinfo"

// mount is one line of a table of mounts (proc_pid_mountinfo(5)).
type mount struct {
	id     uint64
	number uint64 // of the device
	root   string // the folder of the file system that is mounted
	point  string
	kind   string
	source string // a device or another name, as the file system gives it
	super  string // options of the file system
}

// readMounts reads a table of mounts, such as ownMounts. Where several mounts lie on one point, the lowest comes first.
func readMounts(table string) ([]mount, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Space, tab, newline and backslash are written as octal escapes there.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		front, back, ok := strings.Cut(sc.Text(), " - ")
		fields, kind := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			continue
		}
		m := mount{root: unescape.Replace(fields[3]), point: unescape.Replace(fields[4]), kind: kind[0]}
		if len(kind) > 1 {
			m.source = unescape.Replace(kind[1])
		}
		if len(kind) > 2 {
			m.super = unescape.Replace(kind[2])
		}
		number, nerr := parseDevice(fields[2])
		id, ierr := strconv.ParseUint(fields[0], 10, 64)
		if err := errors.Join(nerr, ierr); err != nil {
			return nil, fmt.Errorf("line %q of %s: %w", sc.Text(), table, err)
		}
		m.id, m.number = id, number
		all = append(all, m)
	}
	return all, sc.Err()
}

// parseDevice reads a device number that is written as major:minor.
func parseDevice(text string) (uint64, error) {
	major, minor, ok := strings.Cut(strings.TrimSpace(text), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err1, err2); err != nil || !ok {
		return 0, fmt.Errorf("device number %q: %w", text, err)
	}
	return unix.Mkdev(uint32(ma), uint32(mi)), nil
}

// mountOf gives the mount through which path is seen.
func mountOf(path string) (mount, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stx); err != nil {
		return mount{}, fmt.Errorf("stat %s: %w", path, err)
	}
	all, err := readMounts(ownMounts)
	if err != nil {
		return mount{}, err
	}
	for _, m := range all {
		if stx.Mask&unix.STATX_MNT_ID != 0 && m.id == stx.Mnt_id {
			return m, nil
		}
	}
	return mount{}, fmt.Errorf("%w: the kernel does not tell the mount of %s (before Linux 5.8)", ErrUnsupported, path)
}

// mountsBelow lists the mount points below dir that this process sees.
func mountsBelow(dir string) ([]string, error) {
	found, err := Mounts(dir)
	if err != nil {
		return nil, err
	}
	below := found[:0]
	for _, point := range found {
		if point != dir {
			below = append(below, point)
		}
	}
	return below, nil
}

// Mounts lists the mount points that this process sees at the path and below it. The path is absolute, clean and without links.
func Mounts(path string) ([]string, error) {
	mounts, err := readMounts(ownMounts)
	if err != nil {
		return nil, fmt.Errorf("read the table of mounts: %w", err)
	}
	var found []string
	for _, m := range mounts {
		if within(path, m.point) {
			found = append(found, m.point)
		}
	}
	return found, nil
}
