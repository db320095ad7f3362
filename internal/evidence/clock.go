package evidence

import (
	"time"

	"golang.org/x/sys/unix"
)

// ClockOffset is how far the wall clock is ahead of the time since the boot, which nobody can set and which counts while the
// host sleeps. An offset that became smaller says that the wall clock was set back, or slowed down, by the difference.
func ClockOffset() time.Duration {
	var wall, boot unix.Timespec
	// Both calls fail for clocks alone that the kernel does not have.
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(wall.Nano() - boot.Nano())
}
