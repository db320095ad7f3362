package tree_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
	"holdfast/internal/tree"
)

const nobody = 65534

// asNobody runs do on a thread that is not root, and ends the thread.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for _, call := range [][3]int{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, nobody, nobody}, {unix.SYS_SETRESUID, nobody, nobody}} {
			var e unix.Errno
			if call[0] == unix.SYS_SETGROUPS {
				_, _, e = unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
			} else {
				_, _, e = unix.RawSyscall(uintptr(call[0]), uintptr(call[1]), uintptr(call[1]), uintptr(call[1]))
			}
			if e != 0 {
				t.Errorf("become nobody: %v", e)
				return
			}
		}
		do()
	}()
	<-done
}

// TestUserWithoutPrivilege builds a tree with metadata that only root may set: the rest
// is exact, and each sort of loss is told once.
func TestUserWithoutPrivilege(t *testing.T) {
	testbed.Need(t, "root")
	dir := t.TempDir()
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dst := filepath.Join(dir, "dst")
	if err := os.Mkdir(dst, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dst, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	mtime := tree.Time{Sec: 1_000_000_000, Nsec: 123_456_789}
	trusted := []tree.Xattr{{Name: "trusted.a", Value: []byte("1")}, {Name: "user.a", Value: []byte("2")}}
	entries := []*tree.Entry{
		{Kind: tree.Dir, Mode: 0o755, Mtime: mtime},
		{Path: "closed", Kind: tree.Dir, Mode: 0o400, Mtime: mtime, Xattrs: trusted},
		{Path: "closed/f", Kind: tree.File, Mode: 0o4755, Mtime: mtime, UID: 7, GID: 8, Xattrs: trusted},
		{Path: "closed/g", Kind: tree.File, Mode: 0o640, Mtime: mtime, UID: nobody, GID: nobody, Flags: tree.Immutable | tree.NoAtime},
		{Path: "device", Kind: tree.CharDevice, Major: 1, Minor: 3},
		{Path: "device2", Kind: tree.CharDevice, LinkTo: "device", HasLinkTo: true},
		{Path: "link", Kind: tree.File, LinkTo: "closed/f", HasLinkTo: true},
		{Path: "whiteout", Kind: tree.CharDevice, Mtime: mtime},
	}
	var c collector
	asNobody(t, func() {
		target, err := tree.NewTarget(dst, c.warn)
		if err != nil {
			t.Error(err)
			return
		}
		defer target.Close()
		for _, e := range entries {
			f, err := target.Create(e)
			if err == nil && f != nil {
				err = target.FinishFile(e, f)
			}
			if err != nil {
				t.Error(err)
			}
		}
		if err := target.Finish(); err != nil {
			t.Error(err)
		}
		if err := target.Seal(); err != nil {
			t.Error(err)
		}
	})
	var told []string
	for _, w := range c.list {
		told = append(told, w.String())
	}
	for _, want := range []string{`"device": left out`, `"device2": left out`, "setuid was left out", "its owner could not be set: ", "its group could not be set", `"trusted.a" could not be set`, "flag immutable (i) is not as it was"} {
		if n := len(slices.DeleteFunc(slices.Clone(told), func(s string) bool { return !strings.Contains(s, want) })); n != 1 {
			t.Errorf("%d warnings say %s: %q", n, want, told)
		}
	}
	got, _ := walk(t, dst)
	modes := map[string]uint32{"": 0o755, "closed": 0o400, "closed/f": 0o755, "closed/g": 0o640, "whiteout": 0}
	for _, e := range got {
		if e.HasLinkTo {
			if e.LinkTo != "closed/f" {
				t.Errorf("%q is a name of %q", e.Path, e.LinkTo)
			}
			continue
		}
		if want, ok := modes[e.Path]; !ok || e.Mode != want || e.Mtime != mtime || e.UID != nobody {
			t.Errorf("%+v", *e)
		}
		delete(modes, e.Path)
	}
	if len(modes) > 0 {
		t.Errorf("missing: %v", modes)
	}
}
