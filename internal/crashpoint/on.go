//go:build crashpoints

package crashpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Enabled tells whether this build can crash at a point.
const Enabled = true

var (
	mu     sync.Mutex
	target = sync.OnceValues(func() (string, int) {
		name, count, _ := strings.Cut(os.Getenv("HOLDFAST_CRASH_AT"), ":")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			n = 1
		}
		return name, n
	})
	seen int
)

func hit(name string) {
	want, nth := target()
	if want == "" || name != want {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	seen++
	if seen != nth {
		return
	}
	fmt.Fprintf(os.Stderr, "crash point %s reached for the %d. time\n", name, seen)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the kernel ends the process before the next instruction matters
}
