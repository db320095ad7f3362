package fleet_test

import (
	"context"
	"errors"
	"syscall"
)

// configure writes the configuration of a host anew.
func (f *fleet) configure(h *host) {
	f.setting.Lock()
	defer f.setting.Unlock()
	h.configure()
}

// change gives the tablet to the other tenant while its old volumes lie in the slots, and back.
func (d *tablet) change(ctx context.Context) error {
	h := d.where()
	defer d.stay(d.f.wild())() // all hosts take part
	if err := d.filled(ctx, h); err != nil {
		return err
	}
	if err := d.leave(ctx, h); err != nil {
		return err
	}
	before, after := tenants[0], tenants[1]
	if err := d.give(ctx, after); err != nil {
		return err
	}
	if err := d.refusesOther(ctx, h); err != nil {
		return err
	}
	to := d.other(h)
	if err := d.clear(ctx, to); err != nil {
		return err
	}
	if err := d.start(ctx, to); err != nil { // its first life at the new tenant
		return err
	}
	d.moveTo(to)
	if err := d.fresh(ctx, to); err != nil {
		return err
	}
	if err := d.leave(ctx, to); err != nil {
		return err
	}
	if err := d.arrive(ctx, h, asUsual); err != nil { // over the volumes of the tenant before
		return err
	}
	if err := d.leave(ctx, h); err != nil {
		return err
	}
	if err := d.give(ctx, before); err != nil {
		return err
	}
	return d.arrive(ctx, h, asUsual)
}

// give changes the tenant of the tablet in the configuration of all hosts.
func (d *tablet) give(ctx context.Context, t *tenant) error {
	d.mu.Lock()
	d.owner = t
	d.mu.Unlock()
	for _, h := range append([]*host{d.f.clone}, d.f.hosts...) {
		if err := d.describe(h); err != nil {
			return err
		}
		d.f.configure(h)
	}
	for _, h := range d.f.hosts {
		h.signal(syscall.SIGTERM)
	}
	for _, h := range d.f.hosts {
		d.eventually(ctx, "give it to tenant "+t.id+" on "+h.name, func() error {
			list, err := h.socket.Instances(ctx)
			if err != nil {
				return err
			}
			for _, i := range list {
				if i.ID == d.id && i.Tenant == t.id {
					return nil
				}
			}
			return errors.New("the agent has the configuration of before")
		})
	}
	return nil
}

// refusesOther looks whether neither a prepare nor a backup takes volumes of another tenant.
func (d *tablet) refusesOther(ctx context.Context, h *host) error {
	end, r, err := d.prepare(ctx, h, "", asUsual)
	if err != nil {
		return err
	}
	if end == restoreCompleted {
		d.f.found("%s has bytes of another tenant in the slot of %s, and prepare ended well: %+v", h.name, d.id, r)
	}
	_, end, r, err = d.backup(ctx, h)
	if err != nil {
		return err
	}
	if end == backupCompleted {
		d.f.found("%s has bytes of another tenant in the slot of %s, and backed them up as %s", h.name, d.id, r.Backup)
	}
	d.check(ctx, "the commands of another tenant")
	return nil
}

// clear moves the volumes on a host away and makes empty ones.
func (d *tablet) clear(ctx context.Context, h *host) error {
	if err := d.stop(ctx, h); err != nil {
		return err
	}
	if err := d.takeAway(h, volumeNames...); err != nil {
		return err
	}
	return d.slot(h)
}
