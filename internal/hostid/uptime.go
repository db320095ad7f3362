package hostid

import (
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is how long this boot of the host has lasted, the time in which the host
// was suspended included (CLOCK_BOOTTIME). No setting of the wall clock moves it.
func Uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Since(processBegan) // no kernel that the agent runs on lacks the clock
	}
	return time.Duration(t.Nano())
}

var processBegan = time.Now()
