package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// volumeNames are the volumes of a tablet.
var volumeNames = []string{"data", "media"}

// tablet is an instance of two volumes to which people do this: they empty volumes, fill
// slots from templates, bring old disks back, run it on two hosts, and give it to another tenant.
// All its fields but the phone's belong to the goroutine of live.
type tablet struct {
	*phone
	writes    []string           // volumes to which its lives write
	requests  int                // commands that were given
	templates content            // records of templates that people put into its slots
	attic     []string           // folders of content that people took out of its slots
	backups   map[string]content // by tenant and backup
}

func newTablet(f *fleet, number int) *tablet {
	r := rand.New(rand.NewPCG(f.seed, 100+uint64(number)))
	d := &tablet{
		phone: &phone{
			f: f, id: fmt.Sprintf("tablet-%d", number), release: "agent", hold: "precopy", owner: tenants[0], at: number % hostCount, r: r,
		},
		templates: content{}, backups: map[string]content{}, writes: volumeNames,
	}
	switch number % tabletCount {
	case 0:
		d.writes = volumeNames[:1] // one of its volumes is empty
	case 1:
		d.writes = nil // both are
	case 2:
		d.hold = "frozen"
	}
	if number%2 == 1 {
		d.release = "control-plane"
	}
	for _, h := range append([]*host{f.clone}, f.hosts...) {
		must(f.t, os.MkdirAll(d.dir(h), 0o755))
		must(f.t, os.MkdirAll(d.home(h), 0o755))
	}
	h := f.hosts[d.at]
	must(f.t, d.slot(h))
	for _, h := range f.hosts {
		must(f.t, d.describe(h))
	}
	return d
}

// home holds the volumes of the tablet on a host.
func (d *tablet) home(h *host) string { return d.volume(h) }

// slot makes the volumes, where they are not there.
func (d *tablet) slot(h *host) error {
	for _, v := range volumeNames {
		if err := os.MkdirAll(filepath.Join(d.home(h), v), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// describe tells the tablet's lives to come on a host whose they are and where they write.
func (d *tablet) describe(h *host) error {
	t := d.tenant()
	text := strings.Join(append([]string{t.id, t.letter, d.id}, d.writes...), " ")
	return os.WriteFile(filepath.Join(d.dir(h), "tablet"), []byte(text), 0o600)
}

// start lets the tablet run on a host, as an operator would.
func (d *tablet) start(ctx context.Context, h *host) error {
	for end := time.Now().Add(ledgerPatience); ; {
		if d.runs(h) {
			return nil
		}
		d.park(h, false)
		err := d.run("start", h)
		if err == nil {
			d.meddle()
			return nil
		}
		if time.Now().After(end) || !pause(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// stop ends the tablet on a host as a crash would: the records since its last backup are on the
// host alone. No engine starts it again before somebody does.
func (d *tablet) stop(ctx context.Context, h *host) error {
	d.park(h, true)
	for end := time.Now().Add(ledgerPatience); ; {
		v := d.look(h)
		if v.pid == 0 {
			return nil
		}
		if done, err := d.alone(h, func() error { return unix.Kill(v.pid, unix.SIGKILL) }); done && err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		if time.Now().After(end) || !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("%s does not stop on %s", d.id, h.name)
		}
	}
}

// alone calls f while nobody else can act on the tablet on the host, if that is so now.
func (d *tablet) alone(h *host, f func() error) (bool, error) {
	lock, err := os.OpenFile(filepath.Join(d.dir(h), "act"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, nil //nolint:nilerr // the agent acts on it just now
	}
	d.meddle()
	return true, f()
}

// fresh waits until the tablet, which is to run on the host, has some records that no backup has.
func (d *tablet) fresh(ctx context.Context, h *host) error {
	before, err := d.toldOn(h)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		if n%25 == 0 {
			if err := d.start(ctx, h); err != nil {
				return err
			}
		}
		now, err := d.toldOn(h)
		if err != nil {
			return err
		}
		if sum(now) >= sum(before)+8 || len(d.writes) == 0 {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("%w: %s writes nothing on %s: %+v", context.Cause(ctx), d.id, h.name, d.look(h))
		}
	}
}

func sum(c content) (n int) {
	for _, one := range c {
		n += one
	}
	return n
}

// stay keeps people from the state folders of hosts until the function that it returns is called.
func (d *tablet) stay(hosts ...*host) (leave func()) {
	for _, h := range hosts {
		if h == d.f.wild() {
			h.use.RLock()
			return h.use.RUnlock
		}
	}
	return func() {}
}

// other is another host than that one.
func (d *tablet) other(h *host) *host {
	for {
		if o := d.f.hosts[d.r.IntN(hostCount)]; o != h {
			return o
		}
	}
}

func (d *tablet) moveTo(h *host) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, other := range d.f.hosts {
		if other == h {
			d.at = i
		}
	}
}

// command sends a command until it is accepted. A job of an earlier life of the host, which a
// journal that was set back knows, is brought to its end.
func (d *tablet) command(ctx context.Context, h *host, path string, body map[string]any) (work, error) {
	d.requests++
	request := fmt.Sprintf("%s-%d", d.id, d.requests)
	body["instance_ids"] = []string{d.id}
	for {
		short, cancel := context.WithTimeout(ctx, 15*time.Second)
		w, err := d.phone.command(short, h, path, request, body)
		cancel()
		if err == nil || ctx.Err() != nil {
			return w, err
		}
		if strings.Contains(err.Error(), "has claimed") {
			d.unclaim(ctx, h)
		}
		d.tend(ctx, h)
	}
}

// tend has an operator end a job that the control plane does not wait for.
func (d *tablet) tend(ctx context.Context, h *host) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	jobs, err := h.socket.Jobs(ctx, jobsActive)
	if err != nil {
		return
	}
	for _, j := range jobs {
		if j.InstanceID != d.id {
			continue
		}
		fork, resume := h.socket.AcceptFork(ctx, d.id, "", false), h.socket.Resume(ctx, d.id)
		d.f.trail.note("%s: the operator tends job %s of %s, which is %s: %v, %v", h.name, j.JobID, d.id, j.Stage, fork, resume)
		d.f.trail.count("jobs of earlier lives that an operator tended")
	}
}

// await waits for one of the reports of a job.
func (d *tablet) await(ctx context.Context, w work, kinds ...string) (string, told, error) {
	for {
		if kind := d.f.plane.took(w.job, kinds...); kind != "" {
			return kind, d.f.plane.data(w.job, kind), nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return "", told{}, fmt.Errorf("%w: %s on %s, job %s: %s", context.Cause(ctx), d.id, w.h.name, w.job, d.standing(w))
		}
	}
}

// backup backs the tablet up; end is backupCompleted or backupFailed.
func (d *tablet) backup(ctx context.Context, h *host) (w work, end string, r told, err error) {
	d.f.trail.count("backups commanded")
	if w, err = d.command(ctx, h, backupPath, map[string]any{}); err == nil {
		end, r, err = d.await(ctx, w, backupCompleted, backupFailed)
	}
	return w, end, r, err
}

// leave backs the tablet up on a host until it is released there.
func (d *tablet) leave(ctx context.Context, h *host) error {
	for n := 1; ; n++ {
		w, end, r, err := d.backup(ctx, h)
		if err != nil {
			return err
		}
		if end == backupCompleted {
			d.forked(ctx, w, r)
			if gone, err := d.finish(ctx, w, r, r.Backup); err != nil || gone {
				return err
			}
		} else {
			d.f.trail.count("backups of tablets that failed")
		}
		if n == 10 {
			d.f.found("%s can't be backed up on %s: %s", d.id, h.name, r.Reason)
		}
		if !pause(ctx, time.Second) {
			return context.Cause(ctx)
		}
		if err := d.start(ctx, h); err != nil {
			return err
		}
	}
}

// finish has a stored backup released. A fork is decided for the
// accepted backup. gone is false where the instance runs on.
func (d *tablet) finish(ctx context.Context, w work, r told, accepted string) (gone bool, err error) {
	if len(r.Fork) > 0 {
		d.decide(ctx, w.h, accepted)
	}
	began := time.Now()
	for n := 0; ; n++ {
		switch d.f.plane.took(w.job, released, backupFailed, resumed) {
		case released:
			d.f.releaseTook.Store(int64(time.Since(began)))
			d.f.trail.count("releases of tablets")
			return true, nil
		case backupFailed, resumed:
			return false, nil
		}
		if d.release == "control-plane" && n%10 == 9 {
			// tried again
			_, _ = w.h.call(ctx, d.tenant(), "POST", agentPath+d.id+"/release", fmt.Sprintf("%s-%d-release", d.id, d.requests), nil)
		}
		if !pause(ctx, 100*time.Millisecond) {
			return false, fmt.Errorf("%w: release of %s on %s, job %s: %s", context.Cause(ctx), d.id, w.h.name, w.job, d.standing(w))
		}
	}
}

// forked looks whether a fork that the report of a backup tells of, and that nobody has decided,
// shows in the list of the vault and on the host, and whether the instance is held.
func (d *tablet) forked(ctx context.Context, w work, r told) {
	if len(r.Fork) == 0 {
		return
	}
	d.f.trail.note("%s: backup %s of %s makes a fork with %v", w.h.name, r.Backup, d.id, r.Fork)
	d.f.trail.count("forks")
	d.eventually(ctx, "while fork "+r.Backup+" is undecided", func() error {
		all, err := d.list(ctx, d.tenant())
		if err != nil {
			return err
		}
		listed, heads := map[string]bool{}, map[string]bool{}
		for _, b := range all {
			if listed[b.Backup] = true; b.Head {
				heads[b.Backup] = true
			}
		}
		if !heads[r.Backup] || len(heads) < 2 {
			return fmt.Errorf("the list has no fork: %+v", all)
		}
		for _, f := range r.Fork {
			if !listed[f.Backup] {
				return fmt.Errorf("the list does not have backup %s: %+v", f.Backup, all)
			}
		}
		return nil
	})
	d.eventually(ctx, "while fork "+r.Backup+" is undecided", func() error {
		if end := d.f.plane.took(w.job, backupFailed, resumed); end != "" {
			return nil // somebody let the instance run
		}
		info, err := w.h.socket.Info(ctx)
		if err != nil {
			return err
		}
		for _, t := range info.Troubles {
			if t.Name == "fork_undecided" && t.InstanceID == d.id {
				return nil
			}
		}
		return fmt.Errorf("%s does not show the fork: %+v", w.h.name, info.Troubles)
	})
	// A release by mistake takes as long as the last one took.
	pause(ctx, min(max(2*time.Second, 2*time.Duration(d.f.releaseTook.Load())), 20*time.Second))
	if d.f.plane.took(w.job, released) != "" {
		d.f.found("%s was released on %s for backup %s, which makes a fork of which nobody has decided", d.id, w.h.name, r.Backup)
	}
}

// decide has an operator accept a backup.
func (d *tablet) decide(ctx context.Context, h *host, backup string) {
	d.eventually(ctx, "accept backup "+backup, func() error {
		err := h.socket.AcceptFork(ctx, d.id, backup, false)
		if err == nil {
			return nil
		}
		all, listErr := d.list(ctx, d.tenant())
		heads := 0
		for _, b := range all {
			if b.Head && b.Backup != backup {
				heads++
			}
		}
		if listErr == nil && heads == 0 {
			return nil // decided before
		}
		return err
	})
}

// unclaim has an operator give the host the claim on the tablet: another host lost the state
// folder under which it made the claim, and nobody has the tablet.
func (d *tablet) unclaim(ctx context.Context, h *host) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	taken, err := h.socket.TakeOverClaim(ctx, d.id, "the state folder of the other host is lost", true)
	d.f.trail.note("%s: an operator takes the claim on %s over: %+v, %v", h.name, d.id, taken, err)
	if err == nil {
		d.f.trail.count("claims that an operator took over")
	}
}
