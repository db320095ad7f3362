package tree

import (
	"runtime"

	"golang.org/x/sys/unix"

	"holdfast/internal/contain"
)

// Unmasked calls do on a thread whose new entries get the mode that they are made with, whatever
// the umask of the process is. A Target that do makes and fills then has fewer modes to set.
// Unmasked is for speed alone: where the kernel refuses, the thread has the umask of the process,
// as other goroutines have, also when do starts them. The thread has a working folder of its own.
func Unmasked(do func() error) error {
	var g contain.Group
	g.Go(func() error {
		runtime.LockOSThread()
		switch {
		case unix.Gettid() == unix.Getpid():
			// The first thread stands for the process in /proc, and can't end alone.
			runtime.UnlockOSThread()
		case unix.Unshare(unix.CLONE_FS) == nil:
			// The thread stays locked, so it ends with this goroutine, and the runtime starts
			// no other thread from it.
			unix.Umask(0)
		default:
			runtime.UnlockOSThread()
		}
		return do()
	})
	return g.Wait()
}
