package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The states of an instance, as the agent names them.
const (
	running = "running"
	frozen  = "frozen"
	stopped = "stopped"
)

// process is what stands in the file pid of an instance, and how it is.
type process struct {
	pid   int
	began string // by the kernel, so that a number that was given out again is noticed
	state string
	work  uint64 // nanoseconds that its threads have run
}

// line is the output of the state command: the state and a generation word. The
// word changes with each life, and whenever the life has run: the processor time
// of a process that stands still stands still too. A phone that was powered down
// keeps its word; nobody knows how long a phone ran that ended in another way.
func (p process) line(dir string) string {
	if p.state == stopped {
		word := fmt.Sprintf("%d.%s.ended", p.pid, p.began)
		if down, err := os.ReadFile(filepath.Join(dir, "down")); err == nil && bytes.HasPrefix(down, fmt.Appendf(nil, "%d.%s.", p.pid, p.began)) {
			word = string(down)
		}
		return p.state + " " + word
	}
	return p.state + " " + p.word()
}

func (p process) word() string { return fmt.Sprintf("%d.%s.%d", p.pid, p.began, p.work) }

func look(dir string) process {
	p := process{state: stopped}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return p
	}
	if _, err := fmt.Sscan(string(text), &p.pid, &p.began); err != nil {
		return process{state: stopped}
	}
	return examine(p)
}

// examine looks at all threads: a signal that stops a process stops
// each thread when that leaves the kernel.
func examine(p process) process {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.pid))
	p.state, p.work = stopped, 0
	if state, began := stat(fmt.Sprintf("/proc/%d", p.pid)); began != p.began || state == "Z" || state == "X" {
		return p
	}
	p.state = frozen
	for _, task := range tasks {
		switch state, _ := stat(task); state {
		case "T", "t", "Z", "X", "":
		default:
			p.state = running
		}
		var work uint64
		if text, err := os.ReadFile(task + "/schedstat"); err == nil {
			_, _ = fmt.Sscan(string(text), &work)
		}
		p.work += work
	}
	return p
}

// stat gives the state and the start of a process or thread; proc_pid_stat(5).
func stat(path string) (state, began string) {
	text, err := os.ReadFile(path + "/stat")
	if err != nil {
		return "", ""
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 20 {
		return "", ""
	}
	return f[0], f[19]
}

// reach sends the signal, unless the state is reached, and waits for the state.
func (p process) reach(verb string, sig unix.Signal, want string) error {
	if p.state == want {
		return nil
	}
	if p.state == stopped {
		return fmt.Errorf("%s: the phone is stopped", verb)
	}
	if err := unix.Kill(p.pid, sig); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if examine(p).state == want {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: the phone is %s", verb, examine(p).state)
		}
	}
}
