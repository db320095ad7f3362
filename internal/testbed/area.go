package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// areaPrefix begins the name of every area; the CI looks for it in
// mounts, loop devices and command lines.
const areaPrefix = "holdfast-testbed-"

// reaperVariable names the area to watch over; a test program that
// finds it set is the reaper of that area.
const reaperVariable = "HOLDFAST_TESTBED_REAPER"

// area is the folder of this test process. It is made at first use.
var area struct {
	once sync.Once
	dir  string
	err  error
	// lock is held, by flock, for as long as this process lives: a free lock means
	// a dead owner, which a process number that was given out again can't feign.
	lock *os.File
	// alive is the reaper's standard input; the kernel closes it with
	// this process, however that ends.
	alive io.WriteCloser
}

// init makes this process the reaper when it was started as one:
// before any test, and never to return.
func init() {
	dir := os.Getenv(reaperVariable)
	if dir == "" {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for owner, waiting := os.Getppid(), true; waiting; {
		select {
		case <-ended:
			waiting = false
		case <-time.After(time.Second):
			abortFUSE(owner, dir)
		}
	}
	if lock, err := os.Open(filepath.Join(dir, "lock")); err == nil {
		_ = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err := clearArea(dir); err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// abortFUSE ends the file systems in user space of a test process that is killed and cannot end:
// one of its threads waits for an answer from a file system that the process itself serves.
func abortFUSE(owner int, dir string) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", owner))
	if err != nil {
		return
	}
	// proc_pid_stat(5): the state follows the name, which is in parentheses.
	if i := bytes.LastIndexByte(stat, ')'); i < 0 || !bytes.HasPrefix(stat[i:], []byte(") Z")) {
		return
	}
	points, err := mountsBelow(dir)
	if err != nil {
		return
	}
	for _, p := range points {
		_ = unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE)
	}
}

// Dir makes a new folder in the area; it goes with the test. Its
// path is short enough for a unix socket in it.
func Dir(t testing.TB) string {
	t.Helper()
	root, err := areaDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's folder: %v", err)
		}
	})
	return dir
}

// SharedDir makes a new folder for files that several tests of this process use; the
// folder is removed after the process.
func SharedDir() (string, error) {
	root, err := areaDir()
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(root, "s")
}

func areaDir() (string, error) {
	area.once.Do(func() { area.err = openArea() })
	return area.dir, area.err
}

func openArea() error {
	sweepDead()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", areaPrefix, os.Getpid()))
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	area.lock, err = os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	if err := unix.Flock(int(area.lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", area.lock.Name(), err)
	}
	if _, err := os.Stat(area.lock.Name()); err != nil {
		// A sweep of another process came between the making of the lock and its taking.
		_ = area.lock.Close()
		return openArea()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	reaper := exec.Command(self)
	reaper.Dir = "/"
	reaper.Env = append(os.Environ(), reaperVariable+"="+dir)
	// A session of its own: an interrupt at the terminal ends the tests, not their clean-up.
	reaper.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if area.alive, err = reaper.StdinPipe(); err != nil {
		return err
	}
	if err := reaper.Start(); err != nil {
		return fmt.Errorf("start the process that cleans up: %w", err)
	}
	area.dir = dir
	return nil
}

// sweepDead removes the areas of test processes that are dead and whose reaper was killed as well.
func sweepDead() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), areaPrefix+"*"))
	for _, dir := range dirs {
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue // being made, or being removed
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := clearArea(dir); err != nil {
				fmt.Fprintln(os.Stderr, "testbed: left by an earlier run:", err)
			}
		}
		_ = lock.Close()
	}
	sweepControlGroups()
}

// clearArea ends the processes of an area, unmounts and detaches everything in it, and removes it.
func clearArea(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), areaPrefix) {
		return fmt.Errorf("%s is not an area", dir)
	}
	killArea(dir)
	err := errors.Join(unmountBelow(dir), detachBelow(dir))
	removeControlGroups(controlGroup(dir))
	if err != nil {
		return err // never remove through a mount
	}
	return os.RemoveAll(dir)
}
