package tree

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A folder that its file system encrypts (fscrypt) can be listed without the key: in
// place of names and targets of links the kernel gives useless text that looks like any
// other. So the walk treats such a folder as unreadable.

var errLocked = errors.New("its encryption by the file system (fscrypt) is locked: the key is not there")

// locked reports whether the open folder fd is encrypted and its key is not there. Keys
// of policies of version 1 may be in a keyring where nobody can ask for them, so a
// folder under such a policy never counts as locked; reads of its files fail instead.
func locked(fd int) bool {
	const (
		getPolicy = 0xc0096616 // FS_IOC_GET_ENCRYPTION_POLICY_EX
		getStatus = 0xc080661a // FS_IOC_GET_ENCRYPTION_KEY_STATUS
		version2  = 2
	)
	var policy struct {
		size uint64
		v2   unix.FscryptPolicyV2
	}
	policy.size = uint64(unsafe.Sizeof(policy.v2))
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getPolicy, uintptr(unsafe.Pointer(&policy))); e != 0 || policy.v2.Version != version2 {
		return false
	}
	status := unix.FscryptGetKeyStatusArg{Key_spec: unix.FscryptKeySpecifier{Type: unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER}}
	copy(status.Key_spec.U[:], policy.v2.Master_key_identifier[:])
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getStatus, uintptr(unsafe.Pointer(&status)))
	return e == 0 && status.Status != unix.FSCRYPT_KEY_STATUS_PRESENT
}
