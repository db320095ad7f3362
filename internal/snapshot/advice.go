package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/mounts"
)

// Advice tells a person how to make snapshots possible for a volume that is read in place;
// "" where no remedy is known. A volume that is mounted by itself (subvol=) has no folder
// beside it on its btrfs; any other folder on that btrfs serves, given as snapshot_dir.
func Advice(ctx context.Context, req Request) string {
	at, err := locate(req.Volume, req.Dir)
	if err != nil || at.usable() == nil {
		return ""
	}
	root, err := os.Open(at.root)
	if err != nil {
		return ""
	}
	defer root.Close()
	id := fsidText(root)
	home, err := os.Open(at.home)
	if err != nil {
		return ""
	}
	defer home.Close()
	if id == "" || fsidText(home) == id {
		return "" // another folder would not help
	}
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return ""
	}
	for _, m := range table {
		if m.Kind != NameBtrfs || within(at.real, m.Point) {
			continue
		}
		there := req
		there.Dir = m.Point
		if _, err := (btrfs{}).Fits(ctx, there); err == nil {
			return "set snapshot_dir to " + m.Point + ", which is on the same btrfs: snapshots can be made there"
		}
	}
	device := "the device"
	if mount, err := mountOf(at.real); err == nil && strings.HasPrefix(mount.Source, "/") {
		device = mount.Source
	}
	return "mount the top of that btrfs too (mount -o subvolid=5 " + device + " " + filepath.Join("/mnt", filepath.Base(at.real)) +
		"), and set snapshot_dir to a folder there: snapshots can be made then"
}
