package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// The sample instance of the demo: a process that appends numbered records
// to its volume and makes each durable before it says so. Its folder holds
//
//	volume/         the volume to back up
//	pid             process id and its start time, so that a reused id does not count
//	durable         number of the last record that was fsynced, 8 bytes big-endian
const (
	sampleVolume  = "volume"
	sampleRecords = "records.log" // in the volume
	samplePID     = "pid"
	sampleDurable = "durable"
)

// samplePause lies between two records: many while the demo works, without loading the disk.
const samplePause = 5 * time.Millisecond

// sampleTimeout bounds the wait for a signal to show in the process's state.
const sampleTimeout = 5 * time.Second

// sampleCommand is the hidden mode in which this program is the
// sample instance (run), or one of the commands of its exec runtime.
func (a *app) sampleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "sample-instance (run|state|freeze|thaw|power-down) DIR",
		Short:  "Be the demo's instance, or act on it",
		Hidden: true,
		Args:   arguments("VERB", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := sample{args[1]}
			switch args[0] {
			case "run":
				return s.run(cmd.Context().Done())
			case "state":
				_, err := fmt.Fprintln(a.stdout, s.state(), s.generation())
				return err
			case "freeze":
				return s.signal(syscall.SIGSTOP, "frozen")
			case "thaw":
				return s.signal(syscall.SIGCONT, "running")
			case "power-down":
				// SIGKILL reaches a stopped process without running one more instruction of it.
				return s.signal(syscall.SIGKILL, "stopped")
			}
			return &usageError{msg: fmt.Sprintf("no verb %q", args[0]), command: cmd.CommandPath()}
		},
	}
	return cmd
}

// sample is the sample instance in one folder.
type sample struct{ dir string }

func (s sample) volume() string { return filepath.Join(s.dir, sampleVolume) }

// run appends records until stop closes or the process that started
// it ends. It goes on with the number after the last one in the file.
func (s sample) run(stop <-chan struct{}) (err error) {
	if err := s.writePID(); err != nil {
		return err
	}
	path := filepath.Join(s.volume(), sampleRecords)
	records, err := readRecords(path)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	durable, err := os.OpenFile(filepath.Join(s.dir, sampleDurable), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, durable.Close()) }()
	parent := os.Getppid()
	tick := time.NewTicker(samplePause)
	defer tick.Stop()
	for n := records + 1; ; n++ {
		if _, err := log.WriteString(recordLine(n)); err != nil {
			return err
		}
		if err := log.Sync(); err != nil {
			return err
		}
		if _, err := durable.WriteAt(binary.BigEndian.AppendUint64(nil, n), 0); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-tick.C:
		}
		if os.Getppid() != parent {
			return nil // the demo was killed
		}
	}
}

// recordLine is record n, which ends in a line end, so that a torn one shows.
func recordLine(n uint64) string {
	return fmt.Sprintf("record %08d: the instance did something worth keeping\n", n)
}

// readRecords returns how many records the file holds, which must
// be 1, 2, 3, … without a gap. A file that is not there holds none.
func readRecords(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var n uint64
	for line := range bytes.Lines(data) {
		n++
		if string(line) != recordLine(n) {
			return 0, fmt.Errorf("%s: record %d is %q", name(path), n, line)
		}
	}
	return n, nil
}

// durable returns the number of the last record that the instance made durable.
func (s sample) durable() (uint64, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, sampleDurable))
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%s has %d bytes, not 8", sampleDurable, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (s sample) writePID() error {
	_, start, err := processState(os.Getpid())
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%d %s\n", os.Getpid(), start)
	return os.WriteFile(filepath.Join(s.dir, samplePID), []byte(line), 0o600)
}

// pid returns the id of the instance's process, or false when it does not run.
func (s sample) pid() (int, bool) {
	b, err := os.ReadFile(filepath.Join(s.dir, samplePID))
	if err != nil {
		return 0, false
	}
	var pid int
	var start string
	if _, err := fmt.Sscanf(string(b), "%d %s", &pid, &start); err != nil {
		return 0, false
	}
	_, now, err := processState(pid)
	return pid, err == nil && now == start
}

// state is the instance's state in the words of a runtime: running, frozen, stopped.
func (s sample) state() string {
	pid, ok := s.pid()
	if !ok {
		return "stopped"
	}
	state, _, err := processState(pid)
	switch {
	case err != nil, state == 'Z', state == 'X':
		return "stopped"
	case state == 'T', state == 't':
		return "frozen"
	}
	return "running"
}

// generation is the time, in ns, that the process has spent on a
// processor: another after each instruction, and the same while it
// is frozen. "" when it does not run, or the kernel does not tell.
func (s sample) generation() string {
	pid, ok := s.pid()
	if !ok {
		return ""
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return ""
	}
	var sum uint64
	for _, name := range threads {
		b, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		var spent uint64
		if _, err := fmt.Sscan(string(b), &spent); err != nil {
			return ""
		}
		sum += spent
	}
	return strconv.FormatUint(sum, 10)
}

// signal sends sig and waits until the instance is in the state want. An instance that
// is in that state already is left alone; a stopped instance can't be frozen or thawed.
func (s sample) signal(sig syscall.Signal, want string) error {
	if s.state() == want {
		return nil
	}
	pid, ok := s.pid()
	if !ok {
		return fmt.Errorf("sample instance: is not running, so it can't become %s", want)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("sample instance: %w", err)
	}
	for end := time.Now().Add(sampleTimeout); s.state() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("sample instance: is %s, not %s", s.state(), want)
		}
	}
	return nil
}

// processState returns the state letter and the start time (clock ticks since boot) of a process.
func processState(pid int) (state byte, start string, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, "", err
	}
	// The name in parentheses can hold anything; what follows the last one is fields 3 and up.
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	if i < 0 || len(fields) < 20 {
		return 0, "", fmt.Errorf("/proc/%d/stat: not understood", pid)
	}
	return fields[0][0], string(fields[19]), nil
}
