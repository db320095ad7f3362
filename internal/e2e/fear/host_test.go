package fear_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// host is a machine of its own to the programs: it has a name, a machine id, a boot, and folders of
// state and cache. Its methods may be called from any goroutine.
type host struct {
	s    *stage
	name string
	dir  string
	work chan func() // for the thread that is in the namespaces of the host

	mu        sync.Mutex
	declaring int       // commands under way that declare the host dead
	declared  time.Time // end of the last one
}

// startHost makes a host, which goes with the test.
func startHost(s *stage, name string) *host {
	h := &host{s: s, name: name, dir: filepath.Join(s.dir, name), work: make(chan func())}
	must(s.t, os.Mkdir(h.dir, 0o755))
	n := len(s.hosts)
	must(s.t, os.WriteFile(filepath.Join(h.dir, "machine-id"), fmt.Appendf(nil, "%032x\n", 0xf0+n), 0o644))
	must(s.t, os.WriteFile(filepath.Join(h.dir, "boot_id"), fmt.Appendf(nil, "3d0c2a52-7d5f-4a0b-8c6a-%012d\n", n), 0o644))
	ready, ended := make(chan error), make(chan struct{})
	go h.live(ready, ended)
	s.t.Cleanup(func() {
		close(h.work)
		<-ended
	})
	must(s.t, <-ready)
	return h
}

// live runs the functions of h.work on a thread that has the host's name and files. The thread ends
// with the goroutine, and the namespaces end with the thread.
func (h *host) live(ready chan<- error, ended chan<- struct{}) {
	runtime.LockOSThread() // never unlocked
	if unix.Gettid() == unix.Getpid() {
		// The first thread of a process cannot end alone. This goroutine keeps it busy, so the next
		// goroutine gets another thread.
		defer runtime.UnlockOSThread()
		again := make(chan struct{})
		go h.live(ready, again)
		<-again
		close(ended)
		return
	}
	defer close(ended)
	ready <- h.enter()
	for f := range h.work {
		f()
	}
}

func (h *host) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	bind := func(file, over string) error {
		return unix.Mount(filepath.Join(h.dir, file), over, "", unix.MS_BIND, "")
	}
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		bind("boot_id", "/proc/sys/kernel/random/boot_id"),
		unix.Sethostname([]byte(h.name)),
	)
	if _, none := os.Stat("/etc/machine-id"); none == nil { // else the programs know their host by its state folder
		err = errors.Join(err, bind("machine-id", "/etc/machine-id"))
	}
	return err
}

// do calls f on the thread of the host: programs that f starts are the host's.
func (h *host) do(f func() error) error {
	done := make(chan error)
	h.work <- func() { done <- f() }
	return <-done
}

// result is how a command ended.
type result struct {
	code   int // of the exit; -1 for a signal
	output []byte
	errors string
	began  time.Time
}

// run runs the command line on the host. Where r is not nil, the process is disturbed by a plan
// that r gives, and does not outlive ctx for long. When run returns, no request of the process is
// on its way any more.
func (h *host) run(ctx context.Context, r *rand.Rand, args ...string) result {
	p := &process{s: h.s, host: h, began: time.Now(), ended: make(chan struct{})}
	if r != nil {
		p.r = rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		p.wild = p.r.IntN(5) > 1
	}
	address := ""
	if h.s.minio != nil {
		g, err := openGate(p)
		if err != nil {
			h.s.found("open a gate: %v", err)
			return result{code: -1, began: p.began}
		}
		defer g.close()
		address = g.address
	}
	p.cmd = exec.Command(h.s.program, append([]string{"--json", "--quiet"}, args...)...)
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "HOLDFAST_STORE=" + h.s.storeURL(address),
		"HOLDFAST_KEY=" + h.s.key, "HOLDFAST_VAULT=" + vaultName,
	}
	if h.s.minio != nil {
		p.cmd.Env = append(p.cmd.Env, h.s.minio.Env()...)
	}
	var output, errs bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &output, &errs
	if err := h.do(p.cmd.Start); err != nil {
		h.s.found("start holdfast %q: %v", args, err)
		return result{code: -1, began: p.began}
	}
	p.started.Store(true)
	var disturber sync.WaitGroup
	disturber.Go(func() { p.disturb(ctx) })
	_ = p.cmd.Wait() // its state says how it ended
	close(p.ended)
	disturber.Wait()
	res := result{code: p.cmd.ProcessState.ExitCode(), output: output.Bytes(), errors: errs.String(), began: p.began}
	h.s.trail.count(fmt.Sprintf("%s: code %d", args[0], res.code))
	h.s.trail.note("%s (%d): %q took %.2f s, code %d: %.300s", h.name, p.cmd.Process.Pid, args, time.Since(p.began).Seconds(), res.code, res.errors)
	return res
}

// declareDead notes that a command begins to remove the sessions of the host. The function that it
// returns notes the end of the command.
func (h *host) declareDead() (over func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.declaring++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.declaring--
		h.declared = time.Now()
	}
}

// hadSessions tells whether nobody has removed a session of a process that began on the host then
// and has ended.
func (h *host) hadSessions(since time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.declaring == 0 && h.declared.Before(since)
}
