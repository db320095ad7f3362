package main

import (
	"fmt"
	"os"
	"regexp"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// TestNoCoreIsDumped ends a daemon in the way that dumps a core.
func TestNoCoreIsDumped(t *testing.T) {
	t.Setenv("GOTRACEBACK", "crash")
	metrics := testbed.FreeAddress(t)
	d := startDaemon(t, writeConfig(t, testbed.Dir(t), metrics), metrics)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("limits of the daemon:\n%s", limits)
	}
	if err := d.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	if status := d.cmd.ProcessState.Sys().(syscall.WaitStatus); status.CoreDump() || !status.Signaled() {
		t.Errorf("the daemon ended as %v, with a core: %v", d.cmd.ProcessState, status.CoreDump())
	}
}

// TestMemoryIsKept asks the kernel, in a process that serves nothing else.
func TestMemoryIsKept(t *testing.T) {
	if os.Getenv("HOLDFASTD_TEST_KEEP") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := holdfastd(t)
		cmd.Path, cmd.Args, cmd.Env = self, []string{self, "-test.run=^TestMemoryIsKept$", "-test.v"}, append(os.Environ(), "HOLDFASTD_TEST_KEEP=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := keepMemory(); err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable: %d, %v", dumpable, err)
	}
}
