package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testbed"
)

// script runs a script of the package in a mount namespace of its own, in which /var/lib/holdfast
// and /usr/bin/holdfastd are the test's, and returns its output and its exit code.
func script(t *testing.T, state, program, name string, env []string, args ...string) (string, int) {
	t.Helper()
	const inside = `set -e
mount -t tmpfs none /var/lib
mkdir /var/lib/holdfast
mount --bind "$STATE" /var/lib/holdfast
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o "lowerdir=/usr/bin,upperdir=/mnt/upper,workdir=/mnt/work" none /usr/bin
rm -f /usr/bin/holdfastd
if [ -n "$PROGRAM" ]; then cp "$PROGRAM" /usr/bin/holdfastd; fi
exec sh "$SCRIPT" "$@"`
	path, err := filepath.Abs(filepath.Join("debian", name))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append([]string{"--mount", "--", "sh", "-c", inside, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), append(env, "STATE="+state, "PROGRAM="+program, "SCRIPT="+path)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestRemovalWithHeldInstances: while instances are held the package is neither removed nor purged,
// says which they are and how to let them go, and does both where the administrator insists.
func TestRemovalWithHeldInstances(t *testing.T) {
	testbed.Need(t, "root", "unshare", "mount")
	program := filepath.Join(testbed.Dir(t), "holdfastd")
	if err := testbed.Build(program, "holdfast/cmd/holdfastd"); err != nil {
		t.Fatal(err)
	}
	insist := []string{"HOLDFAST_REMOVE_HELD=1"}
	for _, c := range []struct {
		name, script, verb, program string
		held                        bool
		env                         []string
		code                        int
	}{
		{"remove, nothing held", "prerm", "remove", program, false, nil, 0},
		{"remove, held", "prerm", "remove", program, true, nil, 1},
		{"remove, held, insisting", "prerm", "remove", program, true, insist, 0},
		{"upgrade, held", "prerm", "upgrade", program, true, nil, 0},
		{"purge after a removal, nothing held", "postrm", "purge", "", false, nil, 0},
		{"purge after a removal, held", "postrm", "purge", "", true, nil, 1},
		{"purge after a removal, held, insisting", "postrm", "purge", "", true, insist, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := testbed.Dir(t)
			if c.held {
				if err := os.Mkdir(filepath.Join(state, "held"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(state, "held/phone-7"), []byte("{}"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, code := script(t, state, c.program, c.script, c.env, c.verb)
			if c.code == 0 && c.verb == "purge" { // the folder itself is a mount point here
				code = 0
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, out)
			}
			if named := strings.Contains(out, "phone-7") && strings.Contains(out, "holdfast resume"); named != (c.code == 1) {
				t.Errorf("it says:\n%s", out)
			}
			_, err := os.Stat(filepath.Join(state, "held/phone-7"))
			if kept, want := err == nil, c.held && (c.code == 1 || c.script == "prerm"); kept != want {
				t.Errorf("the note is there: %v, want %v\n%s", kept, want, out)
			}
		})
	}
}
