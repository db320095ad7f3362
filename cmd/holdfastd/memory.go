package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// keepMemory keeps the daemon's memory, with its keys, from ending up elsewhere: no
// core is dumped, and no other process but one with the kernel's own trust
// (CAP_SYS_PTRACE) reads its memory or /proc entries. Child processes begin without it.
func keepMemory() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// Also for kernel.core_pattern with a pipe, which does not ask for the limit.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
