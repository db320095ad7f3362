package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errNotNow says that a fault has nothing to happen to.
var errNotNow = errors.New("not now")

func seconds(from, to float64) [2]time.Duration {
	return [2]time.Duration{time.Duration(from * float64(time.Second)), time.Duration(to * float64(time.Second))}
}

// faults is the list.
var faults = []fault{
	{"agent killed", 10, seconds(0, 0), func(_ context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		h.signal(syscall.SIGKILL)
		return "", nil, nil
	}},
	{"agent away", 3, seconds(1, 8), func(_ context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		h.down(syscall.SIGKILL)
		return "", h.up, nil
	}},
	{"agent restarted", 4, seconds(0, 0), func(_ context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		<-h.signal(syscall.SIGTERM)
		return "", nil, nil
	}},
	{"agent drained and restarted", 2, seconds(1, 6), func(ctx context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := h.socket.Drain(ctx); err != nil {
			return "", nil, err
		}
		return "", func() { <-h.signal(syscall.SIGTERM) }, nil
	}},
	{"agent stopped by SIGSTOP", 4, seconds(0.5, 8), func(_ context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		h.pause(true)
		h.signal(syscall.SIGSTOP)
		return "", func() {
			h.signal(syscall.SIGCONT)
			h.pause(false)
		}, nil
	}},
	{"host rebooted", 3, seconds(0.5, 4), reboot(false)},
	{"host rebooted and engine late", 2, seconds(0.5, 4), reboot(true)},
	{"clock set", 6, seconds(2, 15), setClock},
	{"disk of the journal full", 3, seconds(1, 6), fillDisk},
	{"state folder copied", 6, seconds(0, 0), copyState},
	{"bad line among the tokens, and restart", 1, seconds(1, 4), func(_ context.Context, _ *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		h.tokens("this is no token\n")
		h.signal(syscall.SIGKILL)
		return "", func() { h.tokens("") }, nil
	}},

	{"cut off from the store", 4, seconds(1, 10), func(_ context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		return cut(f, h, storeServer)
	}},
	{"cut off from the control plane", 4, seconds(1, 10), func(_ context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		return cut(f, h, planeServer)
	}},
	{"commands unanswered", 2, seconds(1, 8), func(_ context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		return cut(f, h, controlServer)
	}},
	{"unplugged", 2, seconds(1, 6), func(_ context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		if err := h.net.Unplug(); err != nil {
			f.found("%v", err)
		}
		return "", func() { heal(f, h) }, nil
	}},

	{"store is not well", 12, seconds(0.5, 6), func(_ context.Context, f *fleet, h *host, r *rand.Rand) (string, func(), error) {
		mode := storeModes[r.IntN(len(storeModes))]
		if !f.wants("store: " + mode) {
			return "", nil, errNotNow
		}
		h.store.set(mode)
		return mode, func() { h.store.set("") }, nil
	}},
	{"store killed", 1, seconds(0.5, 5), killStore},
	{"control plane is not well", 12, seconds(0.5, 6), func(_ context.Context, f *fleet, h *host, r *rand.Rand) (string, func(), error) {
		mode := planeModes[r.IntN(len(planeModes))]
		if !f.wants("plane: " + mode) {
			return "", nil, errNotNow
		}
		h.plane.set(mode)
		return mode, func() { h.plane.set("") }, nil
	}},

	{"phone thawed by somebody", 3, seconds(0, 0), meddle(func(p *phone, _ *host, pid int) error {
		return signalPhone(pid, unix.SIGCONT)
	})},
	{"phone thawed and frozen by somebody", 4, seconds(0, 0), meddle(func(p *phone, _ *host, pid int) error {
		err := signalPhone(pid, unix.SIGCONT)
		time.Sleep(400 * time.Millisecond) // long enough for records
		return errors.Join(err, signalPhone(pid, unix.SIGSTOP))
	})},
	{"phone recreated by somebody", 3, seconds(0, 0), meddle(func(p *phone, h *host, _ int) error { return p.begin(h) })},
	{"phone recreated and frozen by somebody", 4, seconds(0, 0), meddle(func(p *phone, h *host, _ int) error {
		err := p.begin(h)
		time.Sleep(400 * time.Millisecond)
		return errors.Join(err, signalPhone(p.look(h).pid, unix.SIGSTOP))
	})},
	{"phone ended by somebody", 3, seconds(0, 0), meddle(func(_ *phone, _ *host, pid int) error { return signalPhone(pid, unix.SIGKILL) })},

	{"operator resumes", 2, seconds(0, 0), operator(func(ctx context.Context, p *phone, h *host) error { return h.socket.Resume(ctx, p.id) })},
	{"operator releases", 2, seconds(0, 0), operator(func(ctx context.Context, p *phone, h *host) error { return h.socket.Release(ctx, p.id) })},
	{"operator cancels", 2, seconds(0, 0), operator(func(ctx context.Context, p *phone, h *host) error {
		list, err := h.socket.Instances(ctx)
		if err != nil {
			return err
		}
		for _, i := range list {
			if i.ID == p.id && i.JobID != "" {
				return h.cancel(ctx, i.JobID)
			}
		}
		return errNotNow
	})},
}

func (h *host) pause(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = on
}

// cancel cancels the task of a job.
func (h *host) cancel(ctx context.Context, job string) error {
	jobs, err := h.socket.Jobs(ctx, jobsActive)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.JobID == job {
			return h.socket.Cancel(ctx, j.TaskID)
		}
	}
	return errNotNow
}

func cut(f *fleet, h *host, server int) (string, func(), error) {
	if err := h.net.Cut(h.net.Servers[server]); err != nil {
		f.found("%v", err)
	}
	return "", func() { heal(f, h) }, nil
}

// heal mends each fault of the network of a host.
func heal(f *fleet, h *host) {
	if err := h.net.Heal(); err != nil {
		f.found("%v", err)
	}
}

// setClock sets the clock of a host ahead or back, by seconds or by days, and right again later.
func setClock(_ context.Context, _ *fleet, h *host, r *rand.Rand) (string, func(), error) {
	by := []time.Duration{3 * time.Second, 2 * time.Minute, time.Hour, 24 * time.Hour, 10 * 24 * time.Hour}[r.IntN(5)]
	if r.IntN(2) == 0 {
		by = -by
	}
	h.clock.Set(by)
	return by.String(), func() { h.clock.Set(0) }, nil
}

// fillDisk fills the disk of the host's state to the last byte.
func fillDisk(_ context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
	path := filepath.Join(h.state, "ballast")
	ballast, err := os.Create(path)
	if err != nil {
		return "", nil, err
	}
	h.mu.Lock()
	h.starved = true
	h.mu.Unlock()
	for _, size := range []int64{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = io.CopyN(ballast, zeros{}, size)
		}
	}
	return "", func() {
		if err := errors.Join(ballast.Close(), os.Remove(path)); err != nil {
			f.found("%v", err)
		}
		h.mu.Lock()
		h.starved, h.began = false, time.Now()
		h.mu.Unlock()
	}, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// reboot makes a fault of the end of all that runs on a host, and of another boot
// in which the engine starts the phones that lived: before the agent, or later.
func reboot(late bool) func(context.Context, *fleet, *host, *rand.Rand) (string, func(), error) {
	return func(ctx context.Context, f *fleet, h *host, _ *rand.Rand) (string, func(), error) {
		h.down(syscall.SIGKILL)
		var lived []*phone
		for _, p := range f.everything() {
			if v := p.look(h); v.pid != 0 {
				lived = append(lived, p)
				p.meddle()
				_ = signalPhone(v.pid, unix.SIGKILL)
			}
		}
		h.newBoot()
		start := func() {
			for _, p := range lived {
				if p.isParked(h) {
					continue
				}
				p.meddle()
				if err := p.run("start", h); err != nil {
					f.trail.note("%v", err) // somebody was faster
				}
			}
		}
		return fmt.Sprintf("with %d phones", len(lived)), func() {
			if !late {
				start()
				h.up()
				return
			}
			h.up()
			pause(ctx, time.Second)
			start()
		}, nil
	}
}

func killStore(_ context.Context, f *fleet, _ *host, _ *rand.Rand) (string, func(), error) {
	if !f.trail.begin("store killed") {
		return "", nil, errNotNow
	}
	f.minio.Kill()
	return "", func() {
		f.minio.Start()
		f.trail.over("store killed")
	}, nil
}

// meddle makes a fault of an act of somebody on a phone that stands still on the host.
func meddle(do func(p *phone, h *host, pid int) error) func(context.Context, *fleet, *host, *rand.Rand) (string, func(), error) {
	return func(ctx context.Context, f *fleet, _ *host, r *rand.Rand) (string, func(), error) {
		first := r.IntN(phoneCount)
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
			for i := range phoneCount {
				p := f.phones[(first+i)%phoneCount]
				h := p.where()
				done, err := p.whileFrozen(h, func(pid int) error { return do(p, h, pid) })
				if done {
					return fmt.Sprintf("%s on %s: %v", p.id, h.name, err), nil, nil
				}
			}
		}
		return "", nil, errNotNow
	}
}

// signalPhone sends the process of a phone a signal. Number 0, of a
// phone without one, would be the process group of the test.
func signalPhone(pid int, sig unix.Signal) error {
	if pid <= 0 {
		return errNotNow
	}
	return unix.Kill(pid, sig)
}

// operator makes a fault of an operator's act on a phone, on the host where the phone is.
func operator(do func(ctx context.Context, p *phone, h *host) error) func(context.Context, *fleet, *host, *rand.Rand) (string, func(), error) {
	return func(ctx context.Context, f *fleet, _ *host, r *rand.Rand) (string, func(), error) {
		p := f.phones[r.IntN(phoneCount)]
		h := p.where()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := do(ctx, p, h)
		return fmt.Sprintf("%s on %s: %v", p.id, h.name, err), nil, nil
	}
}
