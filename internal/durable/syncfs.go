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

// SyncFilesystem is syncfs(2) of the file system that fd lies on, for all who ask while
// one is under way together: it writes back what everybody on the file system has changed,
// so that a hundred of them side by side take a hundred times as long as one. A call that
// began before the caller asked does not count for it, but its error does, since what
// could not be written back may be the caller's. Of errors before that nothing is told, so
// it is for who opened fd a moment ago, and not for who has written through it.
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
	err := syncfs(calls[0].fd) // of who came first
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
