package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A hook is a command of the configuration. It runs below a keeper, which is a process of
// this program that inherits the command's orphans (PR_SET_CHILD_SUBREAPER), also orphans in
// sessions of their own. The keeper ends when none of them is left: a process that a hook
// has started must not act on the instance after the verb has ended, when the job goes on to
// something else. The keeper kills them all when the agent dies, because it then reads the
// end of its pipe. This needs no control group, which the agent's unit could not make.

// Bounds of a hook's end, each with its reason.
const (
	// killTime is how long processes get to die. A process that waits in the kernel
	// dies when that wait ends, and executes nothing more.
	killTime = 5 * time.Second
	// keeperWait is how long a keeper gets beyond that.
	keeperWait = 2 * killTime
)

// errSurvives says that a process of a hook could not be ended.
var errSurvives = errors.New("a process of the command can't be ended: it waits in the kernel")

// runHook runs one command to its end. stays says that it may leave processes behind when it
// succeeds. The error is of the command, or of its keeper; after it returns, no other process of
// the command is left, unless the error is errSurvives.
func runHook(ctx context.Context, argv, env []string, stays bool, stdout, stderr io.Writer) error {
	path := argv[0]
	if filepath.Base(path) == path {
		found, err := exec.LookPath(path)
		if err != nil {
			return err
		}
		path = found
	}
	end, control, err := os.Pipe()
	if err != nil {
		return err
	}
	defer control.Close()
	result, told, err := os.Pipe()
	if err != nil {
		return errors.Join(err, end.Close())
	}
	defer result.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{keeperName, strconv.FormatBool(stays), path}, argv...)
	cmd.Env = env
	cmd.Dir = "/"
	// an interrupt at the terminal is for this process alone
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.ExtraFiles = []*os.File{end, told}
	cmd.Cancel = control.Close
	cmd.WaitDelay = keeperWait
	if stays {
		cmd.WaitDelay = pipeWait
	}
	err = cmd.Start()
	err = errors.Join(err, end.Close(), told.Close())
	if err != nil {
		return err
	}
	ended := cmd.Wait()
	// The keeper is gone, and only it could write.
	line, err := io.ReadAll(result)
	if err != nil {
		return err
	}
	what, value, _ := strings.Cut(string(bytes.TrimSpace(line)), " ")
	switch {
	case what == "exit" && value == "0":
		return nil
	case what == "exit":
		return fmt.Errorf("exit status %s", value)
	case what == "signal":
		n, _ := strconv.Atoi(value)
		return fmt.Errorf("ended by signal %s", unix.SignalName(syscall.Signal(n)))
	case what == "start":
		number, message, _ := strings.Cut(value, " ")
		if n, err := strconv.Atoi(number); err == nil && n > 0 {
			return &os.PathError{Op: "start", Path: path, Err: syscall.Errno(n)}
		}
		return errors.New(message)
	case what == "survives":
		return fmt.Errorf("%w: %s", errSurvives, value)
	}
	return fmt.Errorf("the process that keeps the command's processes together ended: %w", ended)
}
