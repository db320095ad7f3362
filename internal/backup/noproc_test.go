package backup_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
)

// TestWithoutProc: where /proc is not mounted, as in a chroot, a
// backup and a restore have all content and metadata.
func TestWithoutProc(t *testing.T) {
	testbed.Need(t, "root")
	const inside = "HOLDFAST_TEST_WITHOUT_PROC"
	if os.Getenv(inside) == "" {
		for _, kind := range []string{"ext4", "xfs", "btrfs"} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestWithoutProc$", "-test.v")
			cmd.Env = append(os.Environ(), inside+"="+testbed.Filesystem(t, kind, 1<<30))
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", kind, err, out)
			}
		}
		return
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", "/proc", "tmpfs", 0, ""))
	if _, err := os.Stat("/proc/self"); err == nil {
		t.Fatal("/proc is there")
	}
	dir := filepath.Join(os.Getenv(inside), "d")
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(in("folder"), 0o750))
	filesIn(t, dir, oddSizes)
	must(t, os.Link(in("small"), in("small too")), os.Symlink("small", in("symlink")), unix.Mkfifo(in("fifo"), 0o600), unix.Chmod(in("fifo"), 0o642),
		unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))), unix.Chmod(in("device"), 0o666),
		unix.Setxattr(in("small"), "user.a", []byte("b"), 0), os.Lchown(in("fifo"), 5, 6))
	want := entriesOf(t, dir)
	v := newVault(t, obs.NewMemory())
	res := backUp(t, v, dir)
	if res.Lost > 0 || res.WarningCount > 0 {
		t.Errorf("warnings %v", res.Warnings)
	}
	sameEntries(t, entriesOf(t, restoredTo(t, v, res, filepath.Join(os.Getenv(inside), "restored"))), want)
}
