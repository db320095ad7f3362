package testbed_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// machinePatience is a multiple of the time of a boot on a busy machine.
const machinePatience = 10 * time.Minute

func script(lines ...string) testbed.MachineSpec {
	return testbed.MachineSpec{Program: "/bin/busybox", Args: []string{"sh", "-c", strings.Join(lines, "\n")}}
}

// A program's code, output and environment come back; disks keep the machine's writes
// when the power goes.
func TestMachineKeepsDisksWhenCut(t *testing.T) {
	testbed.Need(t, "machine", "mkfs.ext4")
	disk := testbed.Disk(t, 64<<20)
	first := script(
		`mkfs.ext4 -q /dev/vda || exit 1`,
		`mount /dev/vda /root || exit 1`,
		`echo "$TEXT" >/root/synced; sync`,
		`echo ready; sleep 1000`,
	)
	first.Tools, first.Modules = []string{"mkfs.ext4"}, []string{"ext4"}
	first.Env, first.Disks = []string{"TEXT=it's here"}, []string{disk}
	m := testbed.StartMachine(t, first)
	waitFor(t, "the first machine", func() bool { return bytes.HasSuffix(m.Output(), []byte("ready\n")) })
	m.Cut()
	if code, err := m.Wait(machinePatience); err == nil {
		t.Errorf("a machine that was cut ended with code %d", code)
	}

	second := script(`mount /dev/vda /root && cat /root/synced; exit 7`)
	second.Modules, second.Disks = []string{"ext4"}, []string{disk}
	m = testbed.StartMachine(t, second)
	code, err := m.Wait(machinePatience)
	if err != nil || code != 7 {
		t.Fatalf("code %d, %v", code, err)
	}
	if got := string(m.Output()); got != "it's here\n" {
		t.Errorf("after the cut the disk holds %q", got)
	}
}

func TestMachineThatTakesTooLongIsCut(t *testing.T) {
	testbed.Need(t, "machine")
	m := testbed.StartMachine(t, script("echo begun; sleep 1000"))
	waitFor(t, "the machine", func() bool { return len(m.Output()) > 0 })
	if _, err := m.Wait(time.Millisecond); err == nil || !strings.Contains(err.Error(), "still running") || !strings.Contains(err.Error(), "begun") {
		t.Errorf("error: %v", err)
	}
}

// The outcome of a test in a machine is the outcome of the test here.
func TestRunInMachine(t *testing.T) {
	if !testbed.InMachine() {
		testbed.RunInMachine(t, testbed.MachineSpec{}, machinePatience)
		return
	}
	t.Run("own kernel", func(t *testing.T) {
		if version, err := os.ReadFile("/proc/version"); err != nil || !bytes.Contains(version, []byte("Debian")) {
			t.Errorf("%s, %v", version, err)
		}
	})
	if _, err := os.Stat("/program"); err != nil {
		t.Error(err)
	}
}
