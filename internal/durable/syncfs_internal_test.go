package durable

import (
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// TestFlushesOfManyAreOne: callers that come while a flush is under way wait for the
// next flush, which is for all of them, and get the error of either.
func TestFlushesOfManyAreOne(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	fd := int(dir.Fd())
	defer func() { syncfs = unix.Syncfs }()
	for name, c := range map[string]struct {
		results []error // of the calls
		fail    int     // of the five callers
	}{
		"sound":           {[]error{nil, nil}, 0},
		"the first fails": {[]error{unix.EIO}, 5},
		"the next fails":  {[]error{nil, unix.EIO}, 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls, step := 0, make(chan struct{})
			syncfs = func(got int) error {
				if got != fd {
					t.Errorf("%s: flushes %d", name, got)
				}
				<-step
				calls++
				return c.results[calls-1]
			}
			var all sync.WaitGroup
			var mu sync.Mutex
			failed := 0
			for range 5 {
				all.Go(func() {
					if err := SyncFilesystem(fd); err != nil {
						mu.Lock()
						defer mu.Unlock()
						failed++
					}
				})
				synctest.Wait() // the first is under way, the others wait
			}
			for range c.results {
				step <- struct{}{}
			}
			all.Wait()
			if calls != len(c.results) || failed != c.fail || len(flushes.of) != 0 {
				t.Errorf("%s: %d calls, %d failed, want %d and %d; left: %v", name, calls, failed, len(c.results), c.fail, flushes.of)
			}
		})
	}
	syncfs = unix.Syncfs
	if err := SyncFilesystem(fd); err != nil {
		t.Error(err)
	}
	if err := SyncFilesystem(-1); err == nil {
		t.Error("flushed nothing")
	}
}
