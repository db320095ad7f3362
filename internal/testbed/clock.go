package testbed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clockVariable names the file of a Clock, for programs that were
// built with the overlay of SkewedClocks.
const clockVariable = "HOLDFAST_TESTBED_CLOCK"

// Clock is the wall clock of a test's host, which the test sets while the host's programs
// run. The times of files stay the kernel's. Its methods may be called from any goroutine.
type Clock struct {
	t    testing.TB
	path string
	page []byte
}

// NewClock makes a clock that is right. Programs that were built with the
// overlay of SkewedClocks follow it when Env is in their environment.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	c := &Clock{t: t, path: filepath.Join(Dir(t), "clock")}
	if err := os.WriteFile(c.path, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c.page, err = unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(c.page) })
	return c
}

// Env has programs follow the clock.
func (c *Clock) Env() []string { return []string{clockVariable + "=" + c.path} }

// Set has the clock go ahead of the kernel's by d, a number of whole seconds, or behind it.
func (c *Clock) Set(d time.Duration) {
	binary.NativeEndian.PutUint64(c.page, uint64(int64(d/time.Second)))
}

// skew is the code that the overlay adds to package time.
const skew = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// skewed is how far the wall clock is ahead, in seconds.
var skewed = openSkew()

func openSkew() *int64 {
	path, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	_ = syscall.Close(fd)
	return (*int64)(unsafe.Pointer(&page[0]))
}

// skew is how far the wall clock is ahead, in seconds.
func skew() int64 { return atomic.LoadInt64(skewed) }
`

// SkewedClocks writes, into a folder that is there, an overlay for "go build -overlay" and returns
// its path. The overlay replaces time.Now of the standard library by a function that follows the
// Clock whose Env a program has. So the program is the real one, and no part of it knows of the
// test. Code that asks the kernel itself gets the kernel's time, which is also the time of files.
func SkewedClocks(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	library := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(text), now) {
		return "", fmt.Errorf("time.Now of %s does not begin with %q any more: the overlay of the clock has to follow", library, now)
	}
	files := map[string]string{"time.go": strings.Replace(string(text), now, now+"\tsec += skew()\n", 1), "skew.go": skew}
	replace := map[string]string{}
	for name, text := range files {
		replace[filepath.Join(library, name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}
