package evidence

import (
	"time"

	"golang.org/x/sys/unix"
)

// ClockOffset is how far the wall clock is ahead of the time since the boot, which
// nobody can set and which counts while the host sleeps. An offset that became
// smaller says that the wall clock was set back, or slowed down, by the difference.
func ClockOffset() time.Duration {
	var wall unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall) // every kernel has that clock
	return time.Duration(wall.Nano()) - SinceBoot()
}

// SinceBoot is the time since the boot, which nobody can set and which counts
// while the host sleeps: durations within one boot are differences of it.
func SinceBoot() time.Duration {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Since(processBegan) // no kernel that the agent runs on lacks the clock
	}
	return time.Duration(boot.Nano())
}

var processBegan = time.Now()

// Earliest converts t, a wall time when the clock was ahead by then, to the clock that
// is ahead by now: the same time, or an earlier one by as much as the clock was set
// back since. No event after that time has an earlier time on the new clock.
func Earliest(t time.Time, then, now time.Duration) time.Time { return t.Add(min(0, now-then)) }
