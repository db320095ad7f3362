package snapshot_test

import (
	"strings"
	"testing"

	"holdfast/internal/snapshot"
	"holdfast/internal/snapshot/snapshottest"
)

// A file system is mounted on a logical volume of an instance, by
// itself, behind dm-crypt, and on a volume group that lies in it.
func lvmStacked(t *testing.T) {
	const key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for _, c := range []struct {
		name        string
		stack, look func(t *testing.T, device string) string // gives the device of the file system
	}{
		{"the device itself", func(_ *testing.T, device string) string { return device }, func(_ *testing.T, device string) string { return device }},
		{"dm-crypt", lvmMapped("crypt aes-xts-plain64 " + key + " 0 DEVICE 0"), lvmMapped("crypt aes-xts-plain64 " + key + " 0 DEVICE 0")},
		{"a mapping of a mapping", func(t *testing.T, device string) string {
			return lvmMapped("crypt aes-xts-plain64 "+key+" 0 DEVICE 0")(t, lvmMapped("linear DEVICE 0")(t, device))
		}, lvmMapped("crypt aes-xts-plain64 " + key + " 0 DEVICE 0")},
	} {
		for _, kind := range []string{snapshot.NameLVMThin, snapshot.NameLVMClassic} {
			t.Run(kind+" "+c.name, func(t *testing.T) {
				var device string
				if kind == snapshot.NameLVMThin {
					device = lvmThin(t, "stacked", "16m")
				} else {
					device = lvmClassic(t, "stacked", "16m")
				}
				snapshottest.WriteRecords(t, snapshottest.MountImage(t, c.stack(t, device)))
				_, snap := lvmTake(t, kind, device, "job")
				if len(snap.Unflushed) > 0 {
					t.Errorf("not flushed: %q", snap.Unflushed)
				}
				snapshottest.CheckRecords(t, c.look(t, snap.Image))
			})
		}
	}
}

// lvmMapped makes a mapping of a device with a table in which
// DEVICE stands for it; it goes with the test.
func lvmMapped(table string) func(t *testing.T, device string) string {
	return func(t *testing.T, device string) string {
		t.Helper()
		name := "map-" + strings.NewReplacer("/", "-", " ", "-").Replace(device)
		sectors := strings.TrimSpace(command(t, "blockdev", "--getsz", device))
		args := []string{"dmsetup", "create", name, "--table", "0 " + sectors + " " + strings.ReplaceAll(table, "DEVICE", device)}
		// a snapshot, which is read-only
		if strings.Contains(device, "/hf_") || strings.Contains(device, "-hf_") {
			args = append(args, "--readonly")
		}
		command(t, args...)
		t.Cleanup(func() { command(t, "dmsetup", "remove", name) })
		return "/dev/mapper/" + name
	}
}
