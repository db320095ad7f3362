package snapshot

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sectorSize is the unit of device mapper's numbers in bytes.
const sectorSize = 512

// metadataTag marks a pool of whose metadata we have a snapshot. A pool can have one
// such snapshot at a time, and it survives a crash of the program and of the host. The
// tag tells our snapshot from another program's.
func metadataTag(host string) string { return "hf." + strings.ReplaceAll(host, ".", "+") + ".metadata" }

// Comparable is true for thin devices alone: the pool lists the changed
// blocks of a device, and does not know to which file they belong.
func (p lvm) Comparable(volume string) (bool, error) {
	kind, err := checkVolume(volume)
	if err != nil || kind != Image || p.classic {
		return false, err
	}
	st, err := os.Stat(volume)
	return err == nil && !st.Mode().IsRegular(), err
}

// Changed answers for devices of thin volumes, from the pool's metadata alone: no data is read.
func (p lvm) Changed(ctx context.Context, base Base, now *Snapshot) (*Changes, error) {
	no := func(err error) (*Changes, error) {
		return nil, fmt.Errorf("compare %s with %s: %w: %w", now.Ref.Path, base.Path, ErrBase, err)
	}
	switch {
	case p.classic:
		return no(errors.New("a classic snapshot does not tell what changed"))
	case base.Volume != now.Ref.Volume:
		return no(fmt.Errorf("it is of %s", base.Volume))
	}
	at, err := lvmLocate(ctx, now.Ref.Volume)
	if err != nil {
		return no(err)
	}
	if !at.device() {
		return no(errors.New("changed blocks of a device are not told for single files"))
	}
	var views [2]*logicalVolume
	for i, ref := range []Ref{base.Ref, now.Ref} {
		group, name, err := p.checkRef(ctx, "look at", ref)
		if err == nil && group != at.origin.Group {
			err = fmt.Errorf("%s is not in the volume group %s", ref.Path, at.origin.Group)
		}
		if err == nil {
			views[i], err = p.pick("look at", ref, name, at.volumes)
		}
		if err != nil {
			return no(err)
		}
	}
	older, newer := views[0], views[1]
	if older.Pool != newer.Pool || older.Origin != at.origin.Name || newer.Origin != at.origin.Name || older.Size != newer.Size {
		return no(errors.New("they are of different logical volumes, or its size has changed"))
	}
	host, _, _, _ := now.Ref.Owner()
	ranges, err := thinDelta(ctx, findVolume(at.volumes, newer.Pool), older, newer, host)
	if err != nil {
		return no(err)
	}
	return ImageChanges(ranges, true), nil
}

// thinDelta lists the differences between two thin volumes of one pool, as ranges of
// bytes, in whole blocks of the pool.
func thinDelta(ctx context.Context, pool, older, newer *logicalVolume, host string) (ranges []Range, err error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: its thin pool %s", ErrGone, newer.Pool)
	}
	lock, err := metadataLock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := reserveMetadata(ctx, pool, host); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dropMetadata(context.WithoutCancel(ctx), pool, host)) }()
	device := "/dev/mapper/" + mappingName(pool.Group, pool.Name+"_tmeta", "")
	out, err := lvmRead(ctx, "thin_delta", "--metadata-snap", "--thin1", older.ThinID, "--thin2", newer.ThinID, device)
	if err != nil {
		return nil, err
	}
	return parseDelta(bytes.NewReader(out), newer.Size)
}

// metadataLock is for one at a time, in all processes of this host.
func metadataLock(ctx context.Context) (*os.File, error) {
	return takeLock(ctx, MountFolder+"/metadata", unix.LOCK_EX)
}

// reserveMetadata makes the pool's snapshot of its metadata. A crash left any snapshot
// of ours that is there already.
func reserveMetadata(ctx context.Context, pool *logicalVolume, host string) error {
	if slices.Contains(pool.tags(), metadataTag(host)) {
		if err := dropMetadata(ctx, pool, host); err != nil {
			return err
		}
	}
	held, err := metadataHeld(ctx, pool)
	if err != nil {
		return err
	}
	if held {
		return fmt.Errorf("%w: another program has a snapshot of the metadata of pool %s", ErrBase, pool.path())
	}
	if err := lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--addtag", metadataTag(host), pool.path()); err != nil {
		return err
	}
	if err := poolMessage(ctx, pool, "reserve_metadata_snap"); err != nil {
		return errors.Join(err, dropMetadata(context.WithoutCancel(ctx), pool, host))
	}
	return nil
}

func dropMetadata(ctx context.Context, pool *logicalVolume, host string) error {
	held, err := metadataHeld(ctx, pool)
	if err == nil && held {
		err = poolMessage(ctx, pool, "release_metadata_snap")
	}
	if err == nil {
		err = lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--deltag", metadataTag(host), pool.path())
	}
	if err != nil {
		return fmt.Errorf("release the metadata of pool %s: %w", pool.path(), err)
	}
	return nil
}

// releaseMetadata removes the snapshots of metadata that a crash of Changed has left on any pool.
func releaseMetadata(ctx context.Context, volumes []logicalVolume, host string) error {
	var errs []error
	for i := range volumes {
		if slices.Contains(volumes[i].tags(), metadataTag(host)) {
			// a program at work holds the lock and releases its snapshot itself
			lock, err := metadataLock(ctx)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, dropMetadata(ctx, &volumes[i], host))
			lock.Close()
		}
	}
	return errors.Join(errs...)
}

func poolMessage(ctx context.Context, pool *logicalVolume, message string) error {
	return lvmRun(ctx, "dmsetup", "message", mappingName(pool.Group, pool.Name, "tpool"), "0", message)
}

// metadataHeld tells whether the pool has a snapshot of its metadata. The status line of a
// thin pool (Documentation/admin-guide/device-mapper/thin-provisioning.rst) is: start, length,
// "thin-pool", transaction id, metadata blocks, data blocks, root of that snapshot or "-", …
func metadataHeld(ctx context.Context, pool *logicalVolume) (bool, error) {
	out, err := lvmRead(ctx, "dmsetup", "status", mappingName(pool.Group, pool.Name, "tpool"))
	if err != nil {
		return false, err
	}
	f := strings.Fields(string(out))
	if len(f) < 7 || f[2] != "thin-pool" {
		return false, fmt.Errorf("status of pool %s: %q", pool.path(), out)
	}
	return f[6] != "-", nil
}

// parseDelta reads the output of thin_delta: runs of blocks that are the same, differ,
// or are mapped in one of the two snapshots only. size is the volume's in bytes; its
// last block may reach beyond.
func parseDelta(r io.Reader, size int64) ([]Range, error) {
	var ranges []Range
	var block int64
	for d := xml.NewDecoder(r); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("output of thin_delta: %w", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		number := func(name string) int64 {
			for _, a := range start.Attr {
				var n int64
				if a.Name.Local == name {
					if _, e := fmt.Sscanf(a.Value, "%d", &n); e == nil && n >= 0 {
						return n
					}
				}
			}
			err = fmt.Errorf("output of thin_delta: <%s> has no %s", start.Name.Local, name)
			return 0
		}
		switch start.Name.Local {
		case "superblock":
			block = number("data_block_size") * sectorSize
		case "diff", "same":
		case "different", "left_only", "right_only":
			begin, length := number("begin")*block, number("length")*block
			if err == nil && (block == 0 || length == 0 || begin >= size || len(ranges) > 0 && begin < ranges[len(ranges)-1].End()) {
				err = fmt.Errorf("output of thin_delta: blocks out of order or beyond the volume's %d bytes", size)
			}
			if n := len(ranges); n > 0 && ranges[n-1].End() == begin {
				ranges[n-1].Length = min(begin+length, size) - ranges[n-1].Offset
			} else {
				ranges = append(ranges, Range{Offset: begin, Length: min(length, size-begin)})
			}
		default:
			err = fmt.Errorf("output of thin_delta: unknown element <%s>", start.Name.Local)
		}
		if err != nil {
			return nil, err
		}
	}
	if block == 0 {
		return nil, errors.New("output of thin_delta: ends before it begins")
	}
	return ranges, nil
}
