package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// From linux/fs.h.
const (
	iocFreeze = 0xc0045877 // _IOWR('X', 119, int)
	iocThaw   = 0xc0045878 // _IOWR('X', 120, int)
)

// guardName is the first argument of a process that is a guard.
const guardName = "holdfast-freeze-guard"

// init makes this process a guard when it was started as one: before any other work, and never to return. It is
// no function that each program would have to call first: one that forgot would run a second time.
func init() {
	if len(os.Args) == 2 && os.Args[0] == guardName {
		os.Exit(runGuard(os.Args[1]))
	}
}

// The files of a guard.
const (
	guardIn     = 0
	guardOut    = 1
	guardFolder = 2 // any folder of the file system
)

// runGuard freezes, tells so, waits for the end of its input, thaws and removes the mark. Only it knows for sure whether it was
// this freeze that froze. Nothing but SIGKILL ends it before, so a mark without its guard tells of a freeze that is still there.
func runGuard(mark string) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	folder := os.NewFile(guardFolder, "folder")
	err := ioctl(folder, iocFreeze, nil)
	var errno unix.Errno
	errors.As(err, &errno)
	fmt.Println(int(errno))
	if err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if ioctl(folder, iocThaw, nil) != nil {
		return 1
	}
	_ = os.Remove(mark) // the process that waits removes it too
	return 0
}

// guard is the process that holds a freeze. It is for one goroutine at a time; release is due.
type guard struct {
	process *os.Process
	control *os.File // closing it, or dying, thaws
	reply   *os.File
}

// startGuard freezes the file system that folder is on. After an error it is not frozen by us.
func startGuard(ctx context.Context, folder, mark string) (*guard, error) {
	dir, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	in, control, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	reply, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	defer out.Close()
	g := &guard{control: control, reply: reply}
	g.process, err = os.StartProcess("/proc/self/exe", []string{guardName, mark}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{guardIn: in, guardOut: out, guardFolder: dir},
		// An interrupt at the terminal is for this process alone.
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the process that thaws: %w", err), control.Close(), reply.Close())
	}
	out.Close() // the guard alone has it, so that its death ends the wait
	// The kernel flushes before it freezes, which may take as long as the disk needs.
	stop := context.AfterFunc(ctx, func() { _ = reply.SetReadDeadline(time.Unix(1, 0)) })
	answer := make([]byte, 16)
	n, err := reply.Read(answer)
	stop()
	code, bad := strconv.Atoi(strings.TrimSpace(string(answer[:n])))
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil || bad != nil:
		err = fmt.Errorf("the process that thaws says nothing: %w", errors.Join(err, bad))
	case code == int(unix.EBUSY):
		err = errors.New("another program has frozen it")
	case code == int(unix.EOPNOTSUPP):
		err = unsupported("this kind of file system can't be frozen")
	case code != 0:
		err = unix.Errno(code)
	}
	if err != nil {
		_ = g.release() // it has failed, or thaws at the end of its input
		return nil, err
	}
	return g, nil
}

// alive tells whether the guard still runs: its end of the pipe closes with it.
func (g *guard) alive() bool {
	poll := []unix.PollFd{{Fd: int32(g.reply.Fd())}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&unix.POLLHUP == 0
}

// release thaws and waits for it. After an error it is not known whether the file system is frozen.
func (g *guard) release() error {
	err := g.control.Close()
	state, werr := g.process.Wait()
	if werr == nil && !state.Success() {
		werr = fmt.Errorf("the process that thaws: %s", state)
	}
	return errors.Join(err, werr, g.reply.Close())
}
