package snapshot

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lvmPlace is a volume that lies on a logical volume: a device, or
// a folder or file of a file system there.
type lvmPlace struct {
	volume  string // as asked for
	real    string // the same without symbolic links
	kind    Kind
	origin  *logicalVolume
	volumes []logicalVolume // of the same group, at the time of the look

	// Of the file system; empty for a device.
	fs  string // ext4, xfs
	rel string // the volume's path from the root of the file system, "." for the root itself
}

func (at *lvmPlace) device() bool { return at.fs == "" }

// lvmLocate finds the logical volume under a volume. ErrUnsupported
// says why there are no snapshots here.
func lvmLocate(ctx context.Context, volume string) (*lvmPlace, error) {
	real, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, &fs.PathError{Op: "stat", Path: real, Err: err})
	}
	at := &lvmPlace{volume: volume, real: real, kind: Image}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		at.kind = Tree
	}
	group, name, ok := lvmUnder(&st)
	if !ok {
		return nil, unsupported("%s does not lie on a logical volume", volume)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		m, err := mountOf(real)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", volume, err)
		}
		switch m.Kind {
		case "ext4", "xfs":
		default:
			return nil, unsupported("%s lies on %s, whose snapshots can't be mounted beside it or read without writing", volume, m.Kind)
		}
		inside, err := filepath.Rel(m.Point, real)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", volume, err)
		}
		at.fs = m.Kind
		at.rel = strings.TrimPrefix(filepath.Join(m.Root, inside), "/")
		if at.rel == "" {
			at.rel = "."
		}
	}
	if !hasSysAdmin() {
		return nil, unsupported("CAP_SYS_ADMIN is missing, which LVM needs for %s", volume)
	}
	if at.volumes, err = listVolumes(ctx, group); err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	if at.origin = findVolume(at.volumes, name); at.origin == nil {
		return nil, unsupported("volume group %s has no logical volume %s, on which %s lies", group, name, volume)
	}
	if !at.origin.thin() && at.origin.Origin != "" {
		return nil, unsupported("%s, on which %s lies, is a snapshot itself", at.origin.path(), volume)
	}
	return at, nil
}

// nested fails with ErrNested when something is mounted inside of the volume.
func (at *lvmPlace) nested() error {
	if at.device() {
		return nil
	}
	mounts, err := mountsBelow(at.real)
	if err != nil {
		return fmt.Errorf("volume %s: list the mount points inside: %w", at.volume, err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("volume %s: %w: %s would be empty in a snapshot", at.volume, ErrNested, strings.Join(mounts, ", "))
	}
	return nil
}

func (at *lvmPlace) describe() string {
	how := "a classic snapshot, which slows the first write to each part of it"
	if at.origin.thin() {
		how = "a thin snapshot of the pool " + at.origin.Pool
	}
	return fmt.Sprintf("%s lies on the logical volume %s, of which %s is made", at.volume, at.origin.path(), how)
}

// lvmUnder gives the names of the logical volume that a device is,
// or that a file or folder lies on.
func lvmUnder(st *unix.Stat_t) (group, name string, ok bool) {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return lvmName(st.Rdev)
	}
	return lvmName(st.Dev)
}

// lvmName gives the names of the logical volume that a device number stands for. It reads the
// kernel's description of the mapping, so it needs no program to learn that a device is no volume.
func lvmName(number uint64) (group, name string, ok bool) {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/dm/", unix.Major(number), unix.Minor(number))
	uuid, err := os.ReadFile(dir + "uuid")
	if err != nil || !strings.HasPrefix(string(uuid), "LVM-") {
		return "", "", false
	}
	mapping, err := os.ReadFile(dir + "name")
	if err != nil {
		return "", "", false
	}
	return parseMapping(strings.TrimSpace(string(mapping)))
}

// parseMapping takes the name of a mapping apart: group-volume, with hyphens inside of
// a name doubled. A name with a third part is not a volume but a layer of one.
func parseMapping(mapping string) (group, name string, ok bool) {
	const hyphen = "\x00"
	parts := strings.Split(strings.ReplaceAll(mapping, "--", hyphen), "-")
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return "", "", false
	}
	return strings.ReplaceAll(parts[0], hyphen, "-"), strings.ReplaceAll(parts[1], hyphen, "-"), true
}

// mappingName is the reverse of parseMapping, with a layer such as "tpool" where not empty.
func mappingName(group, name, layer string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	mapping := double(group) + "-" + double(name)
	if layer != "" {
		mapping += "-" + layer
	}
	return mapping
}
