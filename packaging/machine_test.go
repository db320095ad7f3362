package packaging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

// bootPatience is how long a machine may take until its systemd is
// up; on an idle host it takes three seconds.
const bootPatience = 2 * time.Minute

// machine is a Debian 12 with a systemd of its own, in a container that shares the host's network.
type machine struct {
	root string // its file system, seen from the host
	init int    // its first process, in the host's numbers
}

// bootMachine boots a fresh machine; it goes with the test.
func bootMachine(t *testing.T) *machine {
	t.Helper()
	testbed.Need(t, "root", "debootstrap", "systemd-nspawn", "nsenter")
	base := baseSystem(t)
	dir := testbed.Dir(t)
	m := &machine{root: filepath.Join(dir, "root")}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, dir, dir)
	if err := unix.Mount("overlay", m.root, "overlay", 0, layers); err != nil {
		t.Fatalf("mount the machine's file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(m.root, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the machine's file system: %v", err)
		}
	})
	name := "holdfast-test-" + strconv.Itoa(os.Getpid())
	log, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	nspawn := exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe",
		"--link-journal=no", "--resolv-conf=off", "--timezone=off", "--machine="+name, "--directory="+m.root)
	nspawn.Stdout, nspawn.Stderr = log, log
	if err := nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The first SIGTERM shuts down in order, the second at once.
		for _, patience := range []time.Duration{20 * time.Second, 5 * time.Second, 0} {
			_ = nspawn.Process.Signal(syscall.SIGTERM)
			if patience == 0 {
				_ = nspawn.Process.Kill()
			}
			if waitFor(patience, func() bool { return ended(nspawn.Process.Pid) }) {
				break
			}
		}
		_ = nspawn.Wait()
		if t.Failed() {
			console, _ := os.ReadFile(log.Name())
			t.Logf("console:\n%s", console)
		}
	})
	up := waitFor(bootPatience, func() bool {
		// At first its child is a process that makes the
		// namespaces; the machine's first process comes after that.
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", nspawn.Process.Pid, nspawn.Process.Pid))
		m.init, _ = strconv.Atoi(strings.TrimSpace(string(children)))
		if m.init == 0 {
			return false
		}
		state, _ := m.try("systemctl", "is-system-running")
		return state == "running" || state == "degraded"
	})
	if !up {
		console, _ := os.ReadFile(log.Name())
		t.Fatalf("the machine is not up after %s\n%s", bootPatience, console)
	}
	return m
}

// baseSystem makes the file system that machines start from, once,
// below build: 40 seconds and 300 MB.
func baseSystem(t *testing.T) string {
	t.Helper()
	base, err := filepath.Abs("../build/.bookworm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(base + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(base); err == nil {
		return base
	}
	making := base + ".making"
	if err := os.RemoveAll(making); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus",
		"bookworm", making).CombinedOutput()
	if err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	if err := os.Rename(making, base); err != nil {
		t.Fatal(err)
	}
	return base
}

// try runs a command in the machine and returns its output.
func (m *machine) try(command ...string) (string, error) {
	args := append([]string{
		"--target", strconv.Itoa(m.init), "--all", "--", "/usr/bin/env", "-i", "HOME=/root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive",
	}, command...)
	var out bytes.Buffer
	cmd := exec.Command("nsenter", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// run runs a command in the machine that must succeed.
func (m *machine) run(t *testing.T, command ...string) string {
	t.Helper()
	out, err := m.try(command...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return out
}

// exitCode runs a command in the machine and returns its exit code too.
func (m *machine) exitCode(t *testing.T, command ...string) (string, int) {
	t.Helper()
	out, err := m.try(command...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return out, exit.ExitCode()
	}
	return out, 0
}

// property asks the machine's systemd for a property of the service.
func (m *machine) property(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "systemctl", "show", "--property="+name, "--value", "holdfast.service")
}

// write puts a file into the machine.
func (m *machine) write(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	name := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, mode); err != nil {
		t.Fatal(err)
	}
}

// named lists the files of the machine whose name holds the word
// holdfast, at the top of each such tree.
func (m *machine) named(t *testing.T) []string {
	t.Helper()
	out := m.run(t, "find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/sys", "-o", "-path", "/root", "-o",
		"-path", "/var/lib/dpkg", "-o", "-path", "/var/log", "-o", "-path", "/srv", ")", "-prune", "-o", "-name", "*holdfast*", "-prune", "-print")
	run := m.run(t, "find", "/run", "-name", "*holdfast*", "-prune", "-print")
	return strings.Fields(out + "\n" + run)
}

func waitFor(patience time.Duration, done func() bool) bool {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// ended reports whether a child of this process has ended; it need not have been waited for.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}
