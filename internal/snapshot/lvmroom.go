package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors of snapshots that go bad. They come wrapped, with the volume and the figures.
var (
	// ErrNoRoom says that there is too little room for a snapshot to
	// be made, or to stand any longer.
	ErrNoRoom = errors.New("too little room for snapshots")
	// ErrOverflow says that a snapshot lost its content, since its room was used up.
	ErrOverflow = errors.New("snapshot overflowed")
	// ErrGone says that a snapshot is not there any more.
	ErrGone = errors.New("snapshot is gone")
)

// A Checker is a Provider whose views can go bad while they are read.
type Checker interface {
	// Check tells why a view can no longer be trusted, or has to be removed: nil while
	// all is well. The caller asks from time to time while it reads, and when it has
	// ended, since the kernel's EIO has no cause and its cache may hide it. The error
	// is ErrGone, ErrOverflow or ErrNoRoom; after ErrNoRoom the data read before is
	// good. Another error says that the check itself failed.
	Check(context.Context, Ref) error
}

// checkStands is Check where a view is whole as long as it is there.
func checkStands(ctx context.Context, p Provider, ref Ref) error {
	stands, err := p.Stands(ctx, ref)
	switch {
	case errors.Is(err, ErrForeign):
		return fmt.Errorf("snapshot %s: %w: %w", ref.Path, ErrGone, err)
	case err == nil && !stands:
		return fmt.Errorf("snapshot %s of %s: %w: someone else has removed it", ref.Path, ref.Volume, ErrGone)
	}
	return err
}

// poolRoom is nil when data and metadata of a pool are used by less
// than limit percent and the pool is sound.
func poolRoom(volumes []logicalVolume, pool string, limit float64) error {
	lv := findVolume(volumes, pool)
	if lv == nil {
		return fmt.Errorf("%w: its thin pool %s is not there", ErrGone, pool)
	}
	if lv.Health != "" { // out_of_data, metadata_read_only, failed
		return fmt.Errorf("%w: the thin pool %s says %s", ErrNoRoom, lv.path(), lv.Health)
	}
	for _, use := range []struct{ of, percent string }{{"data", lv.Data}, {"metadata", lv.Metadata}} {
		got, err := strconv.ParseFloat(use.percent, 64)
		if err != nil {
			return fmt.Errorf("the thin pool %s does not say how much of its %s room is used: %q", lv.path(), use.of, use.percent)
		}
		if got >= limit {
			return fmt.Errorf("%w: %s %% of the %s room of the thin pool %s is used, the limit is %g %%", ErrNoRoom, use.percent, use.of, lv.path(), limit)
		}
	}
	return nil
}

// classicSize returns the room for a classic snapshot in bytes: a share of the volume,
// bounded by the room of the group and by the most that a snapshot can use.
func classicSize(origin *logicalVolume) (int64, error) {
	up := func(n int64) int64 { return (n + origin.ExtentSize - 1) / origin.ExtentSize * origin.ExtentSize }
	// If all of the volume is overwritten, the snapshot needs the volume's size and a table
	// of the copied chunks: one part in 256 for chunks of 4 KiB, and an extent for rounding.
	most := up(origin.Size+origin.Size/128) + origin.ExtentSize
	least := min(up(classicLeast), most)
	size := min(max(up(origin.Size/classicShare), least), most)
	if origin.Free < least {
		return 0, fmt.Errorf("%w: the volume group %s has %d bytes free, a snapshot of %s needs at least %d",
			ErrNoRoom, origin.Group, origin.Free, origin.path(), least)
	}
	return min(size, origin.Free/origin.ExtentSize*origin.ExtentSize), nil
}

// resumeVolumes resumes suspended mappings in the volume groups of the given folders of
// MountFolder. Such a folder shows that a program of ours began work in its group and did not
// end it. Once no program of ours is at work and LVM's own lock was free as well, a killed
// program left the mapping suspended, and every writer to it hangs until someone acts.
func resumeVolumes(ctx context.Context, folders []string) error {
	groups := map[string]bool{}
	for _, path := range folders {
		groups[filepath.Base(filepath.Dir(path))] = true
	}
	if len(groups) == 0 {
		return nil
	}
	lock, err := lvmLock(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	lock.Close()
	files, err := filepath.Glob("/sys/block/dm-*/dm/suspended")
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		read := func(name string) string {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(file), name))
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(text))
		}
		mapping := read("name")
		group, volume, ok := parseLayer(mapping)
		if !ok || !groups[group] || !strings.HasPrefix(read("uuid"), "LVM-") || read("suspended") != "1" {
			continue
		}
		// The tables as LVM's metadata has them, be that from before or after the
		// change. A layer that is no volume of its own goes on with the table it has.
		err := lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--refresh", group+"/"+volume)
		if read("suspended") == "1" {
			err = errors.Join(err, lvmRun(ctx, "dmsetup", "resume", mapping))
		}
		if read("suspended") == "1" {
			errs = append(errs, fmt.Errorf("let %s run again, which a program that was killed has left suspended: %w", mapping, err))
		}
	}
	return errors.Join(errs...)
}

// parseLayer is parseMapping for the layers of a volume too, such as group-pool-tpool.
func parseLayer(mapping string) (group, volume string, ok bool) {
	const hyphen = "\x00"
	parts := strings.Split(strings.ReplaceAll(mapping, "--", hyphen), "-")
	if len(parts) == 3 {
		parts = parts[:2]
	}
	return parseMapping(strings.ReplaceAll(strings.Join(parts, "-"), hyphen, "--"))
}

// dropLayers removes the mappings of a snapshot whose logical volume is gone: a program
// that was killed while it removed a snapshot leaves them, and LVM does not look for
// them. The mapping of the volume itself ("real") stays while another snapshot needs it.
func dropLayers(ctx context.Context, ref Ref) error {
	group, own := filepath.Base(filepath.Dir(ref.Path)), lvmVolumeName(filepath.Base(ref.Path))
	layers := []string{mappingName(group, own, ""), mappingName(group, own, "cow")}
	var st unix.Stat_t
	var volume string
	if unix.Stat(ref.Volume, &st) == nil {
		owner, name, ok := lvmUnder(&st)
		if real := mappingName(owner, name, "real"); ok && owner == group && mappingExists(real) {
			volumes, err := listVolumes(ctx, group)
			if err != nil {
				return err
			}
			if origin := findVolume(volumes, name); origin != nil && origin.Attr != "" && !strings.ContainsRune("oO", rune(origin.Attr[0])) {
				layers, volume = append(layers, real), origin.path()
			}
		}
	}
	if volume != "" { // it may still be mapped to its layer
		if err := lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--refresh", volume); err != nil {
			return err
		}
	}
	for _, mapping := range layers {
		if !mappingExists(mapping) {
			continue
		}
		if err := lvmRun(ctx, "dmsetup", "remove", mapping); err != nil && mappingExists(mapping) {
			return err
		}
	}
	return nil
}

// mappingExists asks the kernel, by its names of devices.
func mappingExists(mapping string) bool {
	files, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, file := range files {
		if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == mapping {
			return true
		}
	}
	return false
}
