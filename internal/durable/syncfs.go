package durable

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// flushes are the file systems that somebody flushes, by device.
var flushes = struct {
	sync.Mutex
	of map[uint64]*flush
}{of: map[uint64]*flush{}}

// flush is one file system's: a call of syncfs is under way, and these wait for the next.
type flush struct{ waiting []*flushCall }

type flushCall struct {
	fd   int
	done chan error    // 1
	lead chan struct{} // 1: it is this caller's turn to flush, for all that wait
}

// syncfs is replaced by tests.
var syncfs = unix.Syncfs

// SyncFilesystem is syncfs(2) of the file system of fd. It writes back the changes of every
// program on the file system, so a hundred calls side by side take a hundred times as long as
// one; therefore callers that wait while one flush is under way share the next one. A flush that
// began before the call does not count for the caller, but its error does, since the data that
// could not be written back may be the caller's. SyncFilesystem reports no earlier errors, so it
// is for a caller that has just opened fd, and not for a caller that has written through fd.
func SyncFilesystem(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at the file system: %w", err)
	}
	c := &flushCall{fd: fd, done: make(chan error, 1), lead: make(chan struct{}, 1)}
	flushes.Lock()
	f := flushes.of[st.Dev]
	leads := f == nil
	if leads {
		f = &flush{}
		flushes.of[st.Dev] = f
	}
	f.waiting = append(f.waiting, c)
	flushes.Unlock()
	if !leads {
		select {
		case err := <-c.done:
			return err
		case <-c.lead:
		}
	}
	flushes.Lock()
	calls := f.waiting
	f.waiting = nil
	flushes.Unlock()
	err := syncfs(calls[0].fd) // the fd of the first caller
	flushes.Lock()
	if err != nil {
		calls, f.waiting = append(calls, f.waiting...), nil
	}
	if len(f.waiting) > 0 {
		f.waiting[0].lead <- struct{}{}
	} else {
		delete(flushes.of, st.Dev)
	}
	flushes.Unlock()
	for _, other := range calls {
		other.done <- err
	}
	return <-c.done
}
