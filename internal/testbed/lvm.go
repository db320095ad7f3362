package testbed

import "testing"

// LVMMachine is a machine for RunInMachine with LVM, thin pools, ext4 and xfs, and an
// empty disk of that size in bytes, /dev/vda, for a volume group. Its LVM takes any block
// device for a physical volume but the disk itself, so that a mapping can be put between.
func LVMMachine(t testing.TB, size int64) MachineSpec {
	t.Helper()
	return MachineSpec{
		Tools: []string{"lvm", "dmsetup", "thin_check", "thin_delta", "mkfs.ext4", "mkfs.xfs"},
		Files: map[string]string{"/etc/lvm/lvm.conf": `
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
devices { global_filter=["r|/dev/vda|"] }
global { thin_check_executable="/usr/bin/thin_check" thin_repair_executable="" }
`},
		Env:     []string{"DM_DISABLE_UDEV=1"}, // there is no udev to make /dev/mapper/…
		Modules: []string{"dm-mod", "dm-thin-pool", "dm-snapshot", "ext4", "xfs"},
		Disks:   []string{Disk(t, size)},
	}
}
