package testbed

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// savedMark is the console's line by which a machine says that it can be saved.
const savedMark = "holdfast-machine-booted"

// SavedMachine is a machine that has booted and was saved before it saw its disk or its
// program. It starts any number of times, in a fraction of the time of a boot.
//
// To the programs in it, each start looks like a boot: another boot id (if no program asked
// for the id before the machine was saved) and a later clock. Only the kernel's random numbers
// would be the same each time, so the program's variable ENTROPY has 32 bytes in hex: the
// program has to give them to the kernel and to make it use them (ioctls RNDADDENTROPY and
// RNDRESEEDCRNG of /dev/urandom) before it, or a program that it starts, needs random numbers.
//
// Start may be called from several goroutines.
type SavedMachine struct {
	dir  string
	spec MachineSpec

	starts atomic.Int64
}

// SaveMachine boots a machine and saves it; the saved files are removed after the test.
// The spec has no disks: Start gives it its one disk.
func SaveMachine(t testing.TB, spec MachineSpec) *SavedMachine {
	t.Helper()
	Need(t, "machine")
	s := &SavedMachine{dir: Dir(t), spec: spec}
	spec.Disks = []string{"null-co://"}
	monitor, err := openPipe(s.monitor())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = monitor.Close() }()
	m, err := bootMachine(s.dir, spec, bootSaved, "-chardev", "pipe,id=monitor,path="+s.monitor(), "-mon", "chardev=monitor,mode=readline")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Cut()
	err = m.proc.await(bootPatience, func() error {
		if !bytes.Contains(m.Console(), []byte(savedMark)) {
			return errors.New("it has not booted")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(m.Console()))
	}
	_, err = fmt.Fprintf(monitor, "migrate_set_parameter max-bandwidth 100G\nmigrate \"exec:cat >%s\"\ninfo migrate\nquit\n", s.state())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.proc.ended:
	case <-time.After(bootPatience):
	}
	if said, err := os.ReadFile(s.monitor() + ".out"); err != nil || !bytes.Contains(said, []byte("Migration status: completed")) {
		t.Fatalf("the machine could not be saved: %v\n%s\n%s\n%s", err, said[max(0, len(said)-500):], m.proc.tail(), tail(m.Console()))
	}
	return s
}

// bootPatience is a multiple of the time of a boot on a busy host.
const bootPatience = 10 * time.Minute

func (s *SavedMachine) state() string   { return filepath.Join(s.dir, "state") }
func (s *SavedMachine) monitor() string { return filepath.Join(s.dir, "monitor") }

// Start makes the saved machine go on, with disk as /dev/vda and with the variables of
// env and of its spec. The machine ends with the test, at the latest.
func (s *SavedMachine) Start(t testing.TB, disk string, env ...string) *Machine {
	t.Helper()
	spec := s.spec
	spec.Disks = []string{disk}
	m, err := bootMachine(Dir(t), spec, resumeSaved, "-incoming", "exec:cat "+s.state())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Cut)
	// Two seconds more each time: a machine's clock is never behind the times that the
	// machine before has seen.
	now := time.Now().Unix() + 2*s.starts.Add(1)
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy)
	line := fmt.Sprintf("date -s @%d >/dev/null", now)
	for _, e := range append([]string{"ENTROPY=" + hex.EncodeToString(entropy)}, env...) {
		name, value, _ := strings.Cut(e, "=")
		line += "; export " + name + "=" + shellQuote(value)
	}
	if _, err := m.input.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
	return m
}

// openPipe makes a pipe in qemu's sense: a fifo from which qemu reads, and a file to
// which it writes.
func openPipe(path string) (*os.File, error) {
	if err := errors.Join(unix.Mkfifo(path+".in", 0o600), os.WriteFile(path+".out", nil, 0o600)); err != nil {
		return nil, err
	}
	return os.OpenFile(path+".in", os.O_RDWR, 0)
}
