package agent_test

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// changedInThePast sets the time of change of a file of the volume data to a time long before
// its backup, as a write does after the clock of the host was set back. Nothing uses the mount
// meanwhile.
func (d *onDisk) changedInThePast(name string) {
	d.t.Helper()
	d.must(unix.Unmount(d.mount, 0))
	image := d.mount + ".img"
	for _, args := range [][]string{
		{"debugfs", "-w", "-R", "set_inode_field /data/" + name + " ctime 20200102030405", image},
		{"mount", "-o", "loop", "-t", "ext4", image, d.mount},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			d.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}

// TestClockThatWasSetBack: the clock of the host is set back after a backup, and the instance
// writes. The times say that the disk was set back, and the mark of the backup on the volume says
// that it was not: the content is newer than the backup, and stays.
func TestClockThatWasSetBack(t *testing.T) {
	testbed.Need(t, "root", "ext4", "debugfs")
	d := newOnDisk(t, testbed.Ext4(t))
	d.fresh()
	d.unsaved()
	d.stop()
	d.changedInThePast("file-0")
	d.start()
	for _, state := range []string{"running", "stopped"} {
		d.write("phone-1.state", state+"\n", 0o600)
		if why := d.prepare("acme"); why != "" {
			t.Errorf("%s: refused with %q", state, why)
		}
		d.holds("unsaved")
	}
	if kept, err := d.operator().Kept(t.Context()); err != nil || len(kept) > 0 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}
