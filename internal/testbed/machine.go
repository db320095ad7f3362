package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machineMemory is the memory of a machine in MiB.
const machineMemory = 1024

// exitMark begins the console's line with the exit code of a machine's program.
const exitMark = "holdfast-machine-exit "

// MachineSpec tells StartMachine what to run.
type MachineSpec struct {
	Program string   // path of a program of this host; the machine gets the shared libraries that it names
	Args    []string // without the program's name
	Env     []string // "NAME=value", beside PATH, HOME and TMPDIR

	Tools   []string          // names of programs of this host that the machine's PATH shall hold
	Files   map[string]string // further files: absolute path there -> content
	Modules []string          // kernel modules to load, beside those for disks and output

	// Disks are files of this host that appear as /dev/vda, /dev/vdb, … They are written in place, and what
	// the machine has written is in them however it ends.
	Disks []string
}

// Machine is a running virtual machine, emulated, so it needs neither root nor KVM. It has two processors, a
// kernel of Debian's, no network, and nothing but what its MachineSpec names. It ends when its program does.
//
// Its methods may be called from several goroutines.
type Machine struct {
	dir  string
	proc *process
}

// StartMachine boots a machine; it is gone with the test, at the latest.
func StartMachine(t testing.TB, spec MachineSpec) *Machine {
	t.Helper()
	Need(t, "machine")
	m, err := startMachine(Dir(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Cut)
	return m
}

func startMachine(dir string, spec MachineSpec) (*Machine, error) {
	qemu, err := Program("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	kernel, err := findKernel()
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir}
	if err := m.writeInitramfs(kernel, spec); err != nil {
		return nil, fmt.Errorf("pack what the machine boots: %w", err)
	}
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", strconv.Itoa(machineMemory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel.image, "-initrd", m.initramfs(),
		// panic=-1 ends the machine at once. A time stamp counter is measured wrong on a busy host, and the clock
		// then runs at twice its speed. The rest spares an emulated start what it has no use for.
		"-append", "console=ttyS0 panic=-1 tsc=unstable quiet mitigations=off nokaslr",
		"-serial", "file:" + m.console(),
		// A file on the serial line would do, but each of its bytes is a trap of the emulated processor.
		"-device", "virtio-serial-pci", "-chardev", "file,id=output,path=" + m.output(),
		"-device", "virtserialport,chardev=output,name=output",
	}
	for _, disk := range spec.Disks {
		// Flushes are not passed on: a machine that is cut loses nothing of what reached this host's kernel.
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,discard=unmap,file="+disk)
	}
	m.proc, err = start(filepath.Join(dir, "log"), qemu, nil, args...)
	return m, err
}

func (m *Machine) initramfs() string { return filepath.Join(m.dir, "initramfs") }
func (m *Machine) console() string   { return filepath.Join(m.dir, "console") }
func (m *Machine) output() string    { return filepath.Join(m.dir, "output") }

// Output is what the program has printed so far, to both of its outputs.
func (m *Machine) Output() []byte {
	out, _ := os.ReadFile(m.output())
	return out
}

// Console is what the kernel and the commands around the program have printed so far.
func (m *Machine) Console() []byte {
	out, _ := os.ReadFile(m.console())
	return out
}

// Wait waits for the program to end and gives its exit code. A machine that takes longer than patience is
// cut; that, and one that ends otherwise, is an error, with the end of what it printed.
func (m *Machine) Wait(patience time.Duration) (int, error) {
	fail := func(what string) (int, error) {
		return 0, fmt.Errorf("%s; its console:\n%s\nits output:\n%s", what, tail(m.Console()), tail(m.Output()))
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-m.proc.ended:
	case <-limit.C:
		m.Cut()
		return fail(fmt.Sprintf("the machine was still running after %s", patience))
	}
	if m.proc.err != nil {
		return fail(fmt.Sprintf("the machine ended: %v: %s", m.proc.err, m.proc.tail()))
	}
	_, mark, found := bytes.Cut(m.Console(), []byte("\n"+exitMark))
	line, _, _ := strings.Cut(string(mark), "\n")
	code, err := strconv.Atoi(strings.TrimSpace(line))
	if !found || err != nil {
		return fail("the machine ended before its program")
	}
	return code, nil
}

// Cut takes the power away: nothing that runs in the machine hears of it. It returns when the machine is gone,
// so that its disks can be given to another one.
func (m *Machine) Cut() {
	m.proc.stop(syscall.SIGKILL, time.Minute)
}

func tail(b []byte) []byte { return b[max(0, len(b)-4096):] }

// Disk makes a sparse file of that size in bytes, for MachineSpec.Disks; it goes with the test.
func Disk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(Dir(t), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}
