package tree_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

// encryptedFolder makes an empty folder on an ext4 that it encrypts (fscrypt), and
// returns a function that takes its key away.
func encryptedFolder(t *testing.T) (dir string, lock func()) {
	t.Helper()
	mount := testbed.Ext4(t)
	source, err := exec.Command("findmnt", "-n", "-o", "SOURCE", mount).Output()
	if err != nil {
		t.Fatal(err)
	}
	tool(t, mount, "tune2fs", "-O", "encrypt", strings.TrimSpace(string(source)))
	dir = filepath.Join(mount, "home", "private")
	write(t, mount, "home/before", "", "zlast", "")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open := func(path string) int {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	ioctl := func(path string, request uintptr, arg unsafe.Pointer) {
		t.Helper()
		fd := open(path)
		defer unix.Close(fd)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
			t.Fatalf("fscrypt: %v", e)
		}
	}
	const (
		addKey    = 0xc0506617 // FS_IOC_ADD_ENCRYPTION_KEY
		removeKey = 0xc0406618 // FS_IOC_REMOVE_ENCRYPTION_KEY
	)
	var key struct {
		unix.FscryptAddKeyArg
		raw [64]byte
	}
	key.Key_spec.Type, key.Raw_size = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER, 64
	for i := range key.raw {
		key.raw[i] = byte(i)
	}
	ioctl(mount, addKey, unsafe.Pointer(&key))
	policy := unix.FscryptPolicyV2{
		Version: 2, Contents_encryption_mode: unix.FSCRYPT_MODE_AES_256_XTS, Filenames_encryption_mode: unix.FSCRYPT_MODE_AES_256_CTS, Flags: 3,
	}
	copy(policy.Master_key_identifier[:], key.Key_spec.U[:])
	ioctl(dir, unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&policy))
	return dir, func() {
		unix.Sync()
		ioctl(mount, removeKey, unsafe.Pointer(&unix.FscryptRemoveKeyArg{Key_spec: key.Key_spec}))
	}
}

// TestLockedFolder: in a folder whose key is absent, no made-up name is taken for a name.
func TestLockedFolder(t *testing.T) {
	testbed.Need(t, "root")
	dir, lock := encryptedFolder(t)
	write(t, dir, "secret/f", "secret", "g", "secret")
	if err := os.Symlink("secret/f", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	mount := filepath.Dir(filepath.Dir(dir))
	want := []string{"", "home", "home/before", "home/private", "home/private/g", "home/private/link", "home/private/secret", "home/private/secret/f", "lost+found", "zlast"}
	entries, warnings := walk(t, mount)
	if got := paths(entries); !slices.Equal(got, want) || slices.ContainsFunc(warnings, func(w tree.Warning) bool { return w.Lost }) {
		t.Errorf("with the key: %q, %v", got, warnings)
	}
	lock()
	entries, warnings = walk(t, mount)
	want = slices.DeleteFunc(want, func(p string) bool { return strings.HasPrefix(p, "home/private/") })
	if got := paths(entries); !slices.Equal(got, want) {
		t.Errorf("without the key: %q, want %q", got, want)
	}
	var losses []tree.Warning
	for _, w := range warnings {
		if w.Lost {
			losses = append(losses, w)
		}
	}
	if len(losses) != 1 || losses[0].Path != "home/private" || !strings.Contains(losses[0].What, "the key is not there") {
		t.Errorf("losses %v", losses)
	}
	err := openRoot(t, dir).Walk(t.Context(), tree.WalkOptions{}, func(*tree.Entry) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "the key is not there") {
		t.Errorf("a locked root: %v", err)
	}
}
