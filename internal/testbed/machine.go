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

// MachineSpec describes a machine for StartMachine.
type MachineSpec struct {
	// path of a program of this host; the machine gets the shared libraries that it names
	Program string
	Args    []string // without the program's name
	Env     []string // "NAME=value", beside PATH, HOME and TMPDIR

	Tools   []string          // names of programs of this host that the machine's PATH shall hold
	Files   map[string]string // further files: absolute path there -> content
	Modules []string          // kernel modules to load, beside the modules for disks and output

	// Disks are files of this host, or the Drive of a VolatileDisk, that appear as
	// /dev/vda, /dev/vdb, … Files are written in place, so they hold the machine's
	// writes however the machine ends.
	Disks []string
}

// Machine is a running virtual machine, emulated, so it needs neither root nor KVM.
// It has two processors (a saved one has one), a kernel of Debian's, no network,
// and nothing but what its MachineSpec names. It ends when its program does.
//
// Its methods may be called from several goroutines.
type Machine struct {
	dir   string
	proc  *process
	input *os.File // a saved machine waits for it; nil for others
}

// bootMode is the course of a machine between its boot and its program.
type bootMode int

const (
	bootThrough bootMode = iota // nothing
	bootSaved                   // it is saved
	resumeSaved                 // it has been saved, and goes on
)

// StartMachine boots a machine; it is gone with the test, at the latest.
func StartMachine(t testing.TB, spec MachineSpec) *Machine {
	t.Helper()
	Need(t, "machine")
	m, err := bootMachine(Dir(t), spec, bootThrough)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Cut)
	return m
}

// bootMachine starts a machine with further arguments for qemu.
func bootMachine(dir string, spec MachineSpec, mode bootMode, more ...string) (*Machine, error) {
	qemu, err := Program("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	kernel, err := findKernel()
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir}
	processors := "2"
	if mode != bootThrough {
		processors = "1" // a fifth less work for the host, and several of them run at once
	}
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=multi", "-smp", processors, "-m", strconv.Itoa(machineMemory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + m.console(),
		// A file on the serial line would do, but each of its bytes is
		// a trap of the emulated processor.
		"-device", "virtio-serial-pci", "-chardev", "file,id=output,path=" + m.output(),
		"-device", "virtserialport,chardev=output,name=output",
	}
	if mode != bootThrough {
		if m.input, err = openPipe(filepath.Join(dir, "input")); err != nil {
			return nil, err
		}
		args = append(args, "-chardev", "pipe,id=input,path="+filepath.Join(dir, "input"), "-device", "virtserialport,chardev=input,name=input")
	}
	if mode != resumeSaved {
		if err := m.writeInitramfs(kernel, spec, mode); err != nil {
			return nil, fmt.Errorf("pack what the machine boots: %w", err)
		}
		// panic=-1 ends the machine at once. On a busy host the kernel measures a time
		// stamp counter wrong, and the clock then runs at twice its speed. The other
		// parameters spare an emulated start work that it does not need.
		args = append(args, "-kernel", kernel.image, "-initrd", m.initramfs(),
			"-append", "console=ttyS0 panic=-1 tsc=unstable quiet mitigations=off nokaslr")
	}
	for _, disk := range spec.Disks {
		// Flushes of a file are not passed on: a machine that is cut loses no write
		// that reached this host's kernel.
		cache := "unsafe"
		if strings.HasPrefix(disk, nbdPrefix) {
			cache = "writeback"
		}
		args = append(args, "-drive", "if=virtio,format=raw,discard=unmap,cache="+cache+",file="+disk)
	}
	m.proc, err = start(filepath.Join(dir, "log"), qemu, nil, append(args, more...)...)
	return m, err
}

func (m *Machine) initramfs() string { return filepath.Join(m.dir, "initramfs") }
func (m *Machine) console() string   { return filepath.Join(m.dir, "console") }
func (m *Machine) output() string    { return filepath.Join(m.dir, "output") }

// Output is the text that the program has printed so far, to both of its outputs.
func (m *Machine) Output() []byte {
	out, _ := os.ReadFile(m.output())
	return out
}

// Console is the text that the kernel and the commands around the program have printed so far.
func (m *Machine) Console() []byte {
	out, _ := os.ReadFile(m.console())
	return out
}

// Worked is the processor time of this host that the machine has taken
// so far, its start included: how far it has come, on a busy host too.
func (m *Machine) Worked() (time.Duration, error) {
	select {
	case <-m.proc.ended:
		s := m.proc.cmd.ProcessState
		return s.UserTime() + s.SystemTime(), nil
	default:
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.proc.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in brackets, which may hold any character.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("unknown form: %s", stat)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	// ticks of 10 ms, on any Linux
	return time.Duration(user+system) * (time.Second / 100), errors.Join(err1, err2)
}

// Wait waits for the program to end and returns its exit code. Wait cuts a machine that
// takes longer than patience; that is an error, and so is every other end of the
// machine, with the end of its output.
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

// Cut takes the power away: nothing that runs in the machine hears of it. It
// returns when the machine is gone, so that its disks can be given to another one.
func (m *Machine) Cut() {
	m.proc.stop(syscall.SIGKILL, time.Minute)
	if m.input != nil {
		_ = m.input.Close()
	}
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
