package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/agent"
)

// capabilities are the capabilities of Linux, by number.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
	"CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilitySets are the capability sets of a thread, 32 capabilities each.
type capabilitySets [2]struct{ effective, permitted, inheritable uint32 }

// keepCapabilities gives up, for all threads and for good, the capabilities that the
// agent's work does not need; programs that it starts have no others either.
// Nobody has been served yet. It tells the log which are left, and why.
func keepCapabilities(a *agent.Agent, log *slog.Logger) error {
	need, all, err := a.Capabilities()
	if err != nil {
		return err
	}
	header := struct {
		version uint32
		pid     int32
	}{version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets capabilitySets
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0); errno != 0 {
		return fmt.Errorf("look at the capabilities: %w", errno)
	}
	held := uint64(sets[1].permitted)<<32 | uint64(sets[0].permitted)
	if all {
		log.Info("all capabilities are kept: commands of an exec runtime may need any", "count", bits.OnesCount64(held))
		return nil
	}
	var keep uint64
	var kept []string
	for _, p := range need {
		for n, name := range capabilities {
			if name == p.Name && held&(1<<n) != 0 {
				keep |= 1 << n
				kept = append(kept, name+" ("+p.Why+")")
			}
		}
	}
	if keep == held {
		log.Info("all capabilities are needed", "kept", strings.Join(kept, ", "))
		return nil
	}
	for i := range sets {
		mask := uint32(keep >> (32 * i))
		sets[i].effective, sets[i].permitted, sets[i].inheritable = sets[i].effective&mask, mask, sets[i].inheritable&mask
	}
	// Else a program that root starts would have all of them again.
	if _, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return gaveUp(log, errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0); errno != 0 {
		return gaveUp(log, errno)
	}
	log.Info("capabilities that the configured work does not need are given up", "count", bits.OnesCount64(held&^keep), "kept", strings.Join(kept, ", "))
	return nil
}

// gaveUp turns a failure to give up capabilities into the error of the start.
func gaveUp(log *slog.Logger, errno syscall.Errno) error {
	if errors.Is(errno, syscall.ENOTSUP) { // not the shipped program
		log.Warn("this program was built with cgo, and keeps all its capabilities")
		return nil
	}
	return fmt.Errorf("give up capabilities: %w", errno)
}
