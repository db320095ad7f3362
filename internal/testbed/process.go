package testbed

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running program whose output goes to a file.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error // of Wait; valid once ended is closed
}

// start runs a program in its own process group; env is added to a small environment of its own.
func start(log, path string, env []string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p := &process{cmd: exec.Command(path, args...), log: log, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Dir = filepath.Dir(log)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH") + ":" + programPath, "HOME=" + filepath.Dir(log)}, env...)
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// stop sends sig, waits for at most patience, and kills the process then.
func (p *process) stop(sig os.Signal, patience time.Duration) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// await calls ready until it returns nil, the process ends, or patience is over.
func (p *process) await(patience time.Duration, ready func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended early: %w\n%s", p.cmd.Path, p.err, p.tail())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.cmd.Path, patience, err, p.tail())
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// tail is the end of the process's output.
func (p *process) tail() string {
	out, _ := os.ReadFile(p.log)
	return string(out[max(0, len(out)-4096):])
}

// killArea ends every process whose command line names the area, and their descendants:
// programs, daemons that the programs left running, and containers, paused ones too.
func killArea(dir string) {
	for range 20 {
		pids := areaProcesses(dir)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			thaw(pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// areaProcesses lists the processes of an area, save this one.
func areaProcesses(dir string) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]int{}
	var todo []int
	for _, name := range stats {
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		stat, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// The second field is the program's name in brackets, which may hold any character.
		rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(rest) < 2 || rest[0] == "Z" {
			continue
		}
		parent, _ := strconv.Atoi(rest[1])
		children[parent] = append(children[parent], pid)
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(cmdline, []byte(dir)) {
			todo = append(todo, pid)
		}
	}
	var all []int
	for len(todo) > 0 {
		pid := todo[0]
		todo = todo[1:]
		if pid != os.Getpid() && !slices.Contains(all, pid) {
			all = append(all, pid)
			todo = append(todo, children[pid]...)
		}
	}
	return all
}

// thaw lets a process run that a version 1 freezer holds; there even SIGKILL waits for that.
func thaw(pid int) {
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == "freezer" && f[2] != "/" {
			_ = os.WriteFile("/sys/fs/cgroup/freezer"+f[2]+"/freezer.state", []byte("THAWED"), 0)
		}
	}
}

// controlGroup is the name of the control group under which the containers of an area run.
func controlGroup(dir string) string { return filepath.Base(dir) }

// removeControlGroups removes the control groups of that name, in every hierarchy, and
// the groups below them. A killed process leaves its group when its parent has heard of
// its end. The first process of a container hears of it seconds later, so a group that
// can't be removed yet is left to the next sweep: an empty group harms nobody.
func removeControlGroups(name string) {
	for _, g := range controlGroups(name) {
		below, _ := filepath.Glob(g + "/*/")
		for _, b := range below {
			_ = os.Remove(strings.TrimSuffix(b, "/"))
		}
		_ = os.Remove(g)
	}
}

// sweepControlGroups removes the groups of areas that are gone.
func sweepControlGroups() {
	for _, g := range controlGroups(areaPrefix + "*") {
		name := filepath.Base(g)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, areaPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			removeControlGroups(name)
		}
	}
}

func controlGroups(name string) []string {
	groups, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	more, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	return append(groups, more...)
}
