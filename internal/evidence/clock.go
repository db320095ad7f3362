package evidence

import (
	"time"

	"golang.org/x/sys/unix"
)

// ClockOffset is how far the wall clock is ahead of the time since the boot, which
// nobody can set and which counts while the host sleeps. An offset that became
// smaller says that the wall clock was set back, or slowed down, by the difference.
func ClockOffset() time.Duration {
	var wall, boot unix.Timespec
	// Both calls fail for clocks alone that the kernel does not have.
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(wall.Nano() - boot.Nano())
}

// SinceBoot is the time since the boot, which nobody can set and which counts
// while the host sleeps: durations within one boot are differences of it.
func SinceBoot() time.Duration {
	var boot unix.Timespec
	// fails for clocks alone that the kernel does not have
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(boot.Nano())
}

// Earliest is a wall time at which the clock was ahead by then, on the clock that
// is ahead by now: the same, or earlier by as much as the clock was set back
// since. What happened after that time has no earlier time on the new clock.
func Earliest(t time.Time, then, now time.Duration) time.Time { return t.Add(min(0, now-then)) }
