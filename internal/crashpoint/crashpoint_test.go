package crashpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"holdfast/internal/crashpoint"
)

func TestListNamesEveryPointOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range crashpoint.List() {
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
	}
	if len(seen) == 0 || !seen[crashpoint.PowerDown+crashpoint.Before] {
		t.Errorf("the list misses points: %v", crashpoint.List())
	}
}

// A build with the tag dies by SIGKILL at the n-th hit of the named point, and only there.
func TestKillsItselfAtTheNamedHit(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "prog")
	src := filepath.Join("testdata", "prog.go")
	build := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, src)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, c := range []struct {
		at     string
		killed bool
		out    string
	}{
		{"", false, "123"},
		{"job.freeze.before", true, ""},
		{"job.freeze.before:3", true, "12"},
		{"job.freeze.before:4", false, "123"},
		{"job.thaw.after", false, "123"},
	} {
		cmd := exec.Command(bin)
		cmd.Env = append(os.Environ(), "HOLDFAST_CRASH_AT="+c.at)
		out, err := cmd.Output()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if killed != c.killed || string(out) != c.out {
			t.Errorf("HOLDFAST_CRASH_AT=%q: killed %v, output %q; want %v, %q (%v)", c.at, killed, out, c.killed, c.out, err)
		}
	}
}
