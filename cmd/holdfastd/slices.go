package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// longSlice is the time slice that the daemon's threads ask for. The kernel's own slice
// is 1 to 3 ms; a process that works in shorter slices need not wait for the daemon.
const longSlice = 20 * time.Millisecond

// longSlices has the kernel run all threads of this process, and the threads that they start,
// for long at a time, and so lets other threads that wake up go before (sched_setattr(2),
// since Linux 6.12; an older kernel takes no notice). The process gets no less of the
// processors by it, so it holds in the frozen round too, which a nice value must not.
func longSlices() error {
	for done := map[int]bool{}; ; {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("look for threads: %w", err)
		}
		before := len(done)
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			if err := longSliceOf(tid); err != nil && err != unix.ESRCH { //nolint:errorlint // the kernel's own
				return fmt.Errorf("set the time slice of thread %d: %w", tid, err)
			}
			done[tid] = true
		}
		if len(done) == before { // a thread that a treated thread started has the slice already
			return nil
		}
	}
}

func longSliceOf(tid int) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL && attr.Policy != unix.SCHED_BATCH {
		return err // somebody gave us another policy, who will know why
	}
	attr.Runtime = uint64(longSlice)
	return unix.SchedSetAttr(tid, attr, 0)
}
