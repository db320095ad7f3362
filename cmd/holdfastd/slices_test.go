package main

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// slices are the time slices of all threads of this process, as the kernel tells them.
func slices(t *testing.T) (all []uint64) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == unix.ESRCH { //nolint:errorlint // the kernel's own
			continue // ended meanwhile
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, attr.Runtime)
	}
	return all
}

// TestLongSlices: all threads have long slices, also threads that start
// later. On an older kernel nothing happens, and there is no error.
func TestLongSlices(t *testing.T) {
	told := slices(t)[0] != 0 // since Linux 6.12
	if err := longSlices(); err != nil {
		t.Fatal(err)
	}
	var all, started sync.WaitGroup
	end := make(chan struct{})
	for range 2 * runtime.GOMAXPROCS(0) {
		started.Add(1)
		all.Go(func() {
			runtime.LockOSThread() // one of its own
			started.Done()
			<-end
		})
	}
	started.Wait()
	defer all.Wait()
	defer close(end)
	for _, s := range slices(t) {
		if told != (s == uint64(longSlice)) {
			t.Errorf("a thread has a slice of %d ns, and the kernel tells slices: %v", s, told)
		}
	}
}
