package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
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

// init makes this process a guard when it was started as a guard: before any other
// work, and it never returns. It is not a function that each program calls first,
// because a program that forgot the call would run a second time instead of guarding.
func init() {
	if len(os.Args) == 4 && os.Args[0] == guardName {
		patience, err1 := time.ParseDuration(os.Args[2])
		limit, err2 := time.ParseDuration(os.Args[3])
		if errors.Join(err1, err2) != nil {
			os.Exit(1)
		}
		os.Exit(runGuard(os.Args[1], patience, limit))
	}
}

// GuardPatience is how long a guard waits for news that its process makes progress
// (KeepFrozen): longer than a busy host keeps a process from running, and shorter than
// programs that write to the file system can bear. Only tests change it.
var GuardPatience = 30 * time.Second

// The files of a guard.
const (
	guardIn     = 0
	guardOut    = 1
	guardFolder = 2 // any folder of the file system
)

// runGuard freezes, tells so, waits, thaws and removes the mark. The wait ends with its
// input, when no byte came for as long as its patience, and after the limit unless that
// is 0. Only it knows for sure whether it was this freeze that froze. Nothing but SIGKILL
// ends it before, so a mark without its guard tells of a freeze that is still there.
func runGuard(mark string, patience, limit time.Duration) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	folder := os.NewFile(guardFolder, "folder")
	err := ioctl(folder, iocFreeze, nil)
	var errno unix.Errno
	errors.As(err, &errno)
	fmt.Println(int(errno))
	if err != nil {
		return 1
	}
	awaitEnd(patience, limit)
	if ioctl(folder, iocThaw, nil) != nil {
		return 1
	}
	_ = os.Remove(mark) // the process that waits removes it too
	return 0
}

// awaitEnd returns when a guard has to thaw.
func awaitEnd(patience, limit time.Duration) {
	began := time.Now()
	told := began
	for buffer := make([]byte, 64); ; {
		left := patience - time.Since(told)
		if limit > 0 {
			left = min(left, limit-time.Since(began))
		}
		if left <= 0 {
			return
		}
		poll := []unix.PollFd{{Fd: guardIn, Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if n, rerr := unix.Read(guardIn, buffer); err != nil || rerr != nil || n <= 0 {
			return
		}
		told = time.Now()
	}
}

// guard is the process that holds a freeze. It is for one goroutine at a time; release is due.
type guard struct {
	process *os.Process
	control *os.File // closing it, or dying, thaws
	reply   *os.File
}

// startGuard freezes the file system that folder is on. After an error it is not frozen by us.
func startGuard(ctx context.Context, folder, mark string, limit time.Duration) (*guard, error) {
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
	g.process, err = os.StartProcess("/proc/self/exe", []string{guardName, mark, GuardPatience.String(), limit.String()}, &os.ProcAttr{
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
	guards.Lock()
	defer guards.Unlock()
	if guards.live == nil {
		guards.live = map[*guard]bool{}
	}
	guards.live[g] = true
	return g, nil
}

// guards are the guards of this process. A goroutine holds its lock for a moment only,
// but the lock of freezes for as long as a flush takes.
var guards struct {
	sync.Mutex
	live map[*guard]bool
}

// Frozen tells how many file systems this process keeps frozen.
func Frozen() int {
	guards.Lock()
	defer guards.Unlock()
	return len(guards.live)
}

// KeepFrozen tells the guards of all file systems that this process keeps frozen that it
// makes progress. A guard that was not told for GuardPatience thaws: a process that hangs
// in a write to a file system that it froze can't be killed, and would never thaw it.
func KeepFrozen() {
	guards.Lock()
	defer guards.Unlock()
	for g := range guards.live {
		g.keep()
	}
}

// keep tells the guard that this process makes progress. It never
// blocks: a pipe that is full has told it.
func (g *guard) keep() {
	_ = g.control.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, _ = g.control.Write([]byte{1})
}

// alive tells whether the guard still runs: its end of the pipe closes with it.
func (g *guard) alive() bool {
	poll := []unix.PollFd{{Fd: int32(g.reply.Fd())}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&unix.POLLHUP == 0
}

// release thaws and waits for it. After an error it is not known whether the file system is frozen.
func (g *guard) release() error {
	guards.Lock()
	delete(guards.live, g)
	guards.Unlock()
	err := g.control.Close()
	state, werr := g.process.Wait()
	if werr == nil && !state.Success() {
		werr = fmt.Errorf("the process that thaws: %s", state)
	}
	return errors.Join(err, werr, g.reply.Close())
}
