package runtime_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// onGroups2 is set in the process that sees control groups of version 2 alone.
const onGroups2 = "HOLDFAST_TEST_CONTROL_GROUPS_2"

// The laws that rest on control groups hold with the groups of both versions. On a host
// with groups of version 1, another process of this test sees only the tree of version
// 2, in a mount namespace of its own, and so does the engine that it starts.
func TestDockerConformsOnControlGroups2(t *testing.T) {
	testbed.Need(t, "docker")
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return // TestDockerConforms is on version 2 already
	}
	testbed.Need(t, "unshare")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-ec",
		`umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"`, "sh",
		program, "-test.v", "-test.run", "^(TestDockerConforms|TestPowerDownWhoseAnswerIsLost)$/^policy_$/(goes_down_without|until_it_runs|that_ran)")
	cmd.Env = append(os.Environ(), onGroups2+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "        --- PASS: TestDockerConforms/") != 4 {
		t.Errorf("%v\n%s", err, out)
	}
}
