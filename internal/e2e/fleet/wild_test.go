package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// People copy, set back and lose the state folder of the wild host, and start a copy of its
// machine beside it. No tablet has a command of the control plane under way there then, but the
// copies are of any moment: their journals tell of jobs that have ended since.

// copyState copies the state folder of the wild host, as a backup of the machine would.
func copyState(_ context.Context, f *fleet, _ *host, _ *rand.Rand) (string, func(), error) {
	h := f.wild()
	h.faults.Add(1)
	defer h.faults.Add(-1)
	if h.calm.Load() || !f.trail.begin("copy of a state folder") {
		return "", nil, errNotNow
	}
	defer f.trail.over("copy of a state folder")
	h.down(syscall.SIGKILL)
	defer h.up()
	if err := h.copyStateTo(f.oldState()); err != nil {
		return "", nil, err
	}
	return "of " + h.name, nil, nil
}

// oldState is the folder with the last copy of the wild host's state.
func (f *fleet) oldState() string { return filepath.Join(f.dir, "old-state") }

// copyStateTo copies the state folder of a host whose agent does not run.
func (h *host) copyStateTo(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := copyTree(h.state, dir); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, "ballast")))
}

// setState replaces the content of the state folder by the content of another folder; "" is none.
func (h *host) setState(from string) error {
	entries, err := os.ReadDir(h.state)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(h.state, e.Name())); err != nil {
			return err
		}
	}
	if from == "" {
		return nil
	}
	return copyTree(from, h.state)
}

// atWild brings the tablet to the wild host, where it gets bytes that no backup has; with these do
// is called, while no fault happens to the host. After that the host has to know its own bytes.
func (d *tablet) atWild(ctx context.Context, do func(ctx context.Context, h *host) error) error {
	h := d.f.wild()
	if from := d.where(); from != h {
		leave := d.stay(h)
		err := d.leave(ctx, from)
		if err == nil {
			err = d.arrive(ctx, h, asUsual)
		}
		if leave(); err != nil {
			return err
		}
	}
	h.use.Lock()
	defer h.use.Unlock()
	calmed, err := h.calmDown(ctx)
	defer calmed()
	if err != nil {
		return err
	}
	if err := d.fresh(ctx, h); err != nil {
		return err
	}
	runs := d.r.IntN(2) == 0
	if !runs {
		if err := d.stop(ctx, h); err != nil {
			return err
		}
	}
	if err := h.anew(ctx); err != nil {
		return err
	}
	if err := do(ctx, h); err != nil {
		return err
	}
	d.check(ctx, "what people did to "+h.name)
	return d.arrive(ctx, h, isReady)
}

// calmDown waits until no fault happens to the host, nor to the store, and
// keeps it so until the function that it returns is called.
func (h *host) calmDown(ctx context.Context) (end func(), err error) {
	const store = "store killed"
	h.calm.Store(true)
	end = func() { h.calm.Store(false) }
	for h.faults.Load() > 0 {
		if !pause(ctx, 100*time.Millisecond) {
			return end, fmt.Errorf("%w: %s does not calm down", context.Cause(ctx), h.name)
		}
	}
	for !h.f.trail.begin(store) {
		if !pause(ctx, 100*time.Millisecond) {
			return end, fmt.Errorf("%w: the store is away", context.Cause(ctx))
		}
	}
	return func() {
		h.f.trail.over(store)
		h.calm.Store(false)
	}, nil
}

// anew has the agent of a host begin anew and look into the vaults.
func (h *host) anew(ctx context.Context) error {
	<-h.signal(syscall.SIGKILL)
	still, err := h.stands(ctx)
	if err == nil && still {
		h.f.found("%s stands still, and nobody did anything to its state folder", h.name)
	}
	return err
}

// stands waits until the agent answers the control plane, and tells whether it stands still.
func (h *host) stands(ctx context.Context) (still bool, err error) {
	for end := time.Now().Add(ledgerPatience); ; {
		h.mu.Lock()
		began := h.agent != nil
		h.mu.Unlock()
		if began {
			// It answers once it has looked into the vaults.
			if _, err = h.call(ctx, tenants[0], http.MethodGet, "/v1/agent/info", h.name+"-info", nil); err == nil {
				info, err := h.socket.Info(ctx)
				for _, t := range info.Troubles {
					still = still || t.Name == "host_copied"
				}
				return still, err
			}
		}
		if time.Now().After(end) || !pause(ctx, 100*time.Millisecond) {
			return false, fmt.Errorf("%s does not answer: %w", h.name, err)
		}
	}
}

// stays looks whether an agent stands still for a while: it takes no command, sends no
// report, changes nothing in the store, and does nothing to any instance.
func (d *tablet) stays(ctx context.Context, h *host) error {
	still, err := h.stands(ctx)
	if err == nil && !still {
		// The first look into the vaults takes longer than an agent
		// waits for it. The agent stands still when the look is over.
		d.f.trail.count("agents that began to stand still late")
		d.eventually(ctx, "its host has a state folder that is a copy or was set back", func() error {
			if still, err = h.stands(ctx); err == nil && !still {
				return fmt.Errorf("%s works", h.name)
			}
			return err
		})
	}
	if err != nil || !still {
		return err
	}
	pause(ctx, time.Second) // what left before
	before := map[*phone]process{}
	for _, p := range d.f.tablets {
		before[p.phone] = p.look(h)
	}
	reports, changes := d.f.plane.requests(h), h.store.changes.Load()
	a, err := h.call(ctx, d.tenant(), http.MethodPost, backupPath, fmt.Sprintf("%s-%d-copy", d.id, d.requests), map[string]any{"instance_ids": []string{d.id}})
	if err != nil || a.Code != "HOLDFAST.API.9002" {
		d.f.found("%s stands still, and answers a command with %+v (%v)", h.name, a, err)
	}
	pause(ctx, 2*time.Second)
	if n := d.f.plane.requests(h); n != reports {
		d.f.found("%s stands still, and sent %d reports", h.name, n-reports)
	}
	if n := h.store.changes.Load(); n != changes {
		d.f.found("%s stands still, and made %d changes in the store", h.name, n-changes)
	}
	for p, v := range before {
		if now := p.look(h); now != v {
			d.f.found("%s stands still, and %s was %+v and is %+v", h.name, p.id, v, now)
		}
	}
	d.f.trail.count("agents that stood still")
	return nil
}

// adopt has a person decide of the state folder of a host, and starts the agent again.
func (h *host) adopt(ctx context.Context, how string) error {
	h.down(syscall.SIGTERM)
	defer h.up()
	out, err := h.daemon("adopt", how).CombinedOutput()
	if err != nil {
		return fmt.Errorf("adopt %s on %s: %w: %s", how, h.name, err, out)
	}
	h.f.trail.note("%s: adopt %s: %s", h.name, how, out)
	return nil
}

// works looks whether an agent works after somebody decided.
func (d *tablet) works(ctx context.Context, h *host) error {
	still, err := h.stands(ctx)
	if err == nil && still {
		d.f.found("%s stands still, although a person decided", h.name)
	}
	return err
}

// setBack sets the state folder of the wild host back to a copy of an earlier time.
func (d *tablet) setBack(ctx context.Context, h *host) error {
	if _, err := os.Stat(d.f.oldState()); err != nil {
		h.down(syscall.SIGKILL)
		err := h.copyStateTo(d.f.oldState())
		if h.up(); err != nil {
			return err
		}
		if _, err := h.stands(ctx); err != nil { // so that it looks into the vaults, and the copy does not know of it
			return err
		}
	}
	h.down(syscall.SIGKILL)
	err := h.setState(d.f.oldState())
	if h.up(); err != nil {
		return err
	}
	if err := d.stays(ctx, h); err != nil {
		return err
	}
	how := "--take-over"
	if d.r.IntN(3) == 0 {
		how = "--new"
	}
	if err := h.adopt(ctx, how); err != nil {
		return err
	}
	return d.works(ctx, h)
}

// lose empties the state folder of the wild host: a new disk.
func (d *tablet) lose(ctx context.Context, h *host) error {
	h.down(syscall.SIGKILL)
	err := h.setState("")
	if h.up(); err != nil {
		return err
	}
	return d.works(ctx, h)
}

// begin starts the clone with a copy of the wild host's state folder and volumes.
func (d *tablet) clone(ctx context.Context, h *host) (*host, error) {
	c := d.f.clone
	h.down(syscall.SIGKILL)
	err := h.copyStateTo(filepath.Join(d.f.dir, "cloned-state"))
	if h.up(); err != nil {
		return c, err
	}
	if err := c.setState(filepath.Join(d.f.dir, "cloned-state")); err != nil {
		return c, err
	}
	c.id = h.id
	d.f.configure(c)
	for _, t := range d.f.tablets {
		if out, err := exec.Command("rm", "-rf", t.home(c)).CombinedOutput(); err != nil {
			return c, fmt.Errorf("%w: %s", err, out)
		}
		if err := copyTree(t.home(h), t.home(c)); err != nil {
			return c, err
		}
	}
	if _, err := h.stands(ctx); err != nil { // the original works on, and looks into the vaults
		return c, err
	}
	c.up()
	return c, d.stays(ctx, c)
}

// cloned starts a copy of the wild host's machine beside it. A person makes it another host.
func (d *tablet) cloned(ctx context.Context, h *host) error {
	c, err := d.clone(ctx, h)
	defer c.down(syscall.SIGKILL)
	if err != nil {
		return err
	}
	c.down(syscall.SIGTERM)
	c.id = "clone"
	d.f.configure(c)
	c.up()
	if err := c.adopt(ctx, "--new"); err != nil {
		return err
	}
	if err := d.works(ctx, c); err != nil {
		return err
	}
	return d.works(ctx, h) // the original never noticed
}

// replacedByClone has a copy of the wild host's machine take over.
// Then the original stands still, until it takes over again.
func (d *tablet) replacedByClone(ctx context.Context, h *host) error {
	c, err := d.clone(ctx, h)
	defer c.down(syscall.SIGKILL)
	if err != nil {
		return err
	}
	h.down(syscall.SIGKILL)
	if err := c.adopt(ctx, "--take-over"); err != nil {
		h.up()
		return err
	}
	err = d.works(ctx, c)
	if h.up(); err != nil {
		return err
	}
	if err := d.stays(ctx, h); err != nil {
		return err
	}
	c.down(syscall.SIGTERM)
	defer c.up()
	if err := h.adopt(ctx, "--take-over"); err != nil {
		return err
	}
	return d.works(ctx, h)
}
