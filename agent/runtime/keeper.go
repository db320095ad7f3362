package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/contain"
)

// keeperName is the first argument of a process that is a keeper.
const keeperName = "holdfast-hook"

// The files of a keeper beside the files of the command.
const (
	keeperEnd    = 3 // is at its end when the command has to be ended
	keeperResult = 4 // takes one line on how the command ended
)

// killPause is how long a keeper waits between two looks for processes that it kills.
const killPause = 5 * time.Millisecond

// init makes this process a keeper when it was started as one: before any other work, and never to
// return.
func init() {
	if len(os.Args) >= 4 && os.Args[0] == keeperName {
		os.Exit(keep(os.Args[1] == "true", os.Args[2], os.Args[3:]))
	}
}

// keep runs the command, ends all that it has started, and writes how it ended.
func keep(stays bool, path string, argv []string) int {
	unix.CloseOnExec(keeperEnd)
	unix.CloseOnExec(keeperResult)
	result := os.NewFile(keeperResult, "result")
	tell := func(format string, args ...any) int {
		if _, err := fmt.Fprintf(result, format, args...); err != nil {
			return 1
		}
		return 0
	}
	// Caught and not ignored: the command would inherit an ignored signal.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return tell("start 0 become the parent of the command's orphans: %v", err)
	}
	process, err := os.StartProcess(path, argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return tell("start %d %v", errno, err)
	}
	var stopped atomic.Bool
	go func() {
		_ = contain.Call(func() error {
			_, _ = io.Copy(io.Discard, os.NewFile(keeperEnd, "end"))
			stopped.Store(true)
			for began := time.Now(); ; time.Sleep(killPause) {
				// The wait for the command ends when it is dead, and this process then.
				if alive := killChildren(); alive > 0 && time.Since(began) > killTime {
					os.Exit(tell("survives %d", alive))
				}
			}
		})
	}()
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return tell("start 0 wait for the command: %v", err)
		}
		if pid == process.Pid {
			break
		}
	}
	if !stays || stopped.Load() || status.Signaled() || status.ExitStatus() != 0 {
		if pid := endOrphans(); pid != 0 {
			return tell("survives %d", pid)
		}
	}
	if status.Signaled() {
		return tell("signal %d", status.Signal())
	}
	return tell("exit %d", status.ExitStatus())
}

// endOrphans kills the processes below this process until none is left, and returns 0,
// or a process that does not die.
func endOrphans() int {
	for began := time.Now(); ; time.Sleep(killPause) {
		for pid, err := 1, error(nil); err == nil && pid > 0 || errors.Is(err, unix.EINTR); {
			if pid, err = unix.Wait4(-1, nil, unix.WNOHANG, nil); errors.Is(err, unix.ECHILD) {
				return 0
			}
		}
		if alive := killChildren(); alive > 0 && time.Since(began) > killTime {
			return alive
		}
	}
}

// killChildren sends SIGKILL to all children of this process, and returns one of them, or 0. Their
// own children become children of this process when they die.
func killChildren() (alive int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !isChild(pid) {
			continue
		}
		alive = pid
		// A descriptor holds the process while it is looked at once more: its number may have been
		// given to another one meanwhile.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if isChild(pid) {
			// a process that is gone is no child at the next look
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(fd)
	}
	return alive
}

// isChild tells whether the process is a child of this one, and not dead.
func isChild(pid int) bool {
	b, err := os.ReadFile(filepath.Join(procDir(pid), "stat"))
	if err != nil {
		return false
	}
	// After the name, in parentheses, come the state and the parent.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return len(f) > 1 && f[0] != "Z" && f[0] != "X" && f[1] == strconv.Itoa(os.Getpid())
}
