package fleet_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// expectation is the ledger's word about a prepare that ends well.
type expectation string

const (
	asUsual    expectation = "as usual"
	isReady    expectation = "ready as it is" // the newest bytes are on this host
	isReplaced expectation = "restored anew"  // other bytes are in the slot
)

// withEmpty counts in the trail an event that every run has to have.
const withEmpty = "prepares of tablets with an empty volume"

// prepare commands one prepare and waits for its end: restoreCompleted or restoreFailed. With a
// backup an operator names that one. What the prepare did is compared with the ledger.
func (d *tablet) prepare(ctx context.Context, h *host, backup string, want expectation) (end string, r told, err error) {
	before, err := d.told()
	if err != nil {
		return "", r, err
	}
	was, err := d.inPlace(h)
	if err != nil {
		return "", r, err
	}
	var w work
	if backup == "" {
		w, err = d.command(ctx, h, preparePath, map[string]any{"user_id": "u"})
	} else {
		w, err = d.named(ctx, h, backup)
	}
	if err != nil {
		return "", r, err
	}
	if end, r, err = d.await(ctx, w, restoreCompleted, restoreFailed); err != nil {
		return end, r, err
	}
	d.f.trail.note("%s: prepare of %s (job %s), which was to be %s: %s, ready %v, replaced %+v %s", h.name, d.id, w.job, want, end, r.AlreadyReady, r.Replaced, r.Reason)
	if end == restoreFailed {
		d.f.trail.count("restores of tablets that failed")
		return end, r, nil
	}
	d.f.trail.count("prepares of tablets")
	if len(d.writes) < len(volumeNames) {
		d.f.trail.count(withEmpty)
	}
	now, err := d.inPlace(h)
	if err != nil {
		return end, r, err
	}
	switch {
	case want == isReady && !r.AlreadyReady:
		d.f.found("%s has the newest bytes of %s, and they were replaced (job %s)", h.name, d.id, w.job)
	case want == isReplaced && r.AlreadyReady:
		d.f.found("%s has other bytes in the slot of %s, and prepare says that they are ready (job %s)", h.name, d.id, w.job)
	case r.AlreadyReady:
		for file, n := range was {
			if now[file] < n {
				d.f.found("%s: prepare on %s says that the volumes are ready, and %d records of %s are gone (job %s)", d.id, h.name, n-now[file], file, w.job)
			}
		}
		return end, r, nil
	}
	if !r.AlreadyReady {
		d.f.trail.count("restores of tablets")
	}
	return end, r, d.restored(ctx, w, r, before, now)
}

// restored compares volumes with the backup that they were restored from. before has the
// records that were told before the restore: later records are of the life that it started.
func (d *tablet) restored(ctx context.Context, w work, r told, before, now content) error {
	if r.AlreadyReady || r.Backup == "" {
		return nil
	}
	var backed content
	d.eventually(ctx, "look into backup "+r.Backup, func() (err error) {
		backed, err = d.backed(ctx, d.tenant(), r.Backup)
		return err
	})
	for file, n := range backed {
		if now[file] != n {
			d.f.found("%s on %s: %s has %d records, and %d in backup %s, which was restored (job %s)", d.id, w.h.name, file, now[file], n, r.Backup, w.job)
		}
	}
	for file := range now {
		d.meets(d.tenant(), file, "a volume on "+w.h.name)
		if before[file] > 0 && backed[file] == 0 {
			d.f.found("%s on %s: %s is there, and not in backup %s, which was restored (job %s)", d.id, w.h.name, file, r.Backup, w.job)
		}
	}
	return nil
}

// named is an operator's command to restore one backup.
func (d *tablet) named(ctx context.Context, h *host, backup string) (work, error) {
	d.requests++
	request := fmt.Sprintf("%s-%d", d.id, d.requests)
	for n := 0; ; n++ {
		a, err := h.socket.Prepare(ctx, request, []string{d.id}, backup)
		if err == nil && len(a.Jobs) == 1 {
			d.f.trail.count("restores of a named backup")
			return work{h: h, task: a.TaskID, job: a.Jobs[0].Job, began: time.Now()}, nil
		}
		if n%15 == 14 {
			d.tend(ctx, h)
		}
		if !pause(ctx, time.Second) {
			return work{}, fmt.Errorf("%w: prepare of backup %s on %s: %w", context.Cause(ctx), backup, h.name, err)
		}
	}
}

// arrive prepares the tablet on a host until it runs there, and follows the refusals.
func (d *tablet) arrive(ctx context.Context, h *host, want expectation) error {
	backup, refused := "", 0
	for {
		if err := d.describe(h); err != nil {
			return err
		}
		d.park(h, false)
		end, r, err := d.prepare(ctx, h, backup, want)
		if err != nil {
			return err
		}
		if d.check(ctx, "prepare on "+h.name); end == restoreCompleted {
			d.moveTo(h)
			return d.start(ctx, h)
		}
		if refused++; refused == 20 {
			d.f.found("%s can't be prepared on %s: %s", d.id, h.name, r.Reason)
		}
		if backup, err = d.obey(ctx, h, r.Reason, backup, refused); err != nil {
			return err
		}
		if !pause(ctx, time.Second) {
			return fmt.Errorf("%w: prepare of %s on %s: %s", context.Cause(ctx), d.id, h.name, r.Reason)
		}
	}
}

// obey has an operator follow the reason of a refusal, and
// returns the backup that is to be restored; "" is the newest.
func (d *tablet) obey(ctx context.Context, h *host, reason, backup string, refused int) (string, error) {
	switch {
	case strings.Contains(reason, "name the one to restore"), strings.Contains(reason, "name the backup to restore"):
		all, err := d.list(ctx, d.tenant())
		if err != nil {
			return backup, nil //nolint:nilerr // the store is down; tried again
		}
		for _, b := range all {
			if b.Head {
				backup = b.Backup
			}
		}
	case strings.Contains(reason, "name the one to take"): // nobody has decided of a fork
		d.f.trail.note("%s: %s", d.id, reason)
		for _, other := range d.f.hosts {
			d.tend(ctx, other)
		}
	case strings.Contains(reason, "has claimed") && refused >= 3:
		d.unclaim(ctx, h)
	case strings.Contains(reason, "move") && strings.Contains(reason, "away"):
		if refused < 2 {
			return backup, nil
		}
		if err := d.stop(ctx, h); err != nil {
			return backup, err
		}
		d.f.trail.count("volumes that an operator moved away")
		return backup, d.takeAway(h, volumeNames...)
	case strings.Contains(reason, "the instance runs"):
		return backup, d.stop(ctx, h)
	}
	return backup, nil
}

// takeAway moves whole volumes to a folder of people.
func (d *tablet) takeAway(h *host, volumes ...string) error {
	dir, err := d.newAttic()
	if err != nil {
		return err
	}
	for _, v := range volumes {
		err := os.Rename(filepath.Join(d.home(h), v), filepath.Join(dir, v))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// takeOut moves every which-th file of a volume to a folder of people, and returns the folder.
func (d *tablet) takeOut(h *host, volume string, which int) (string, error) {
	dir, err := d.newAttic()
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(filepath.Join(d.home(h), volume))
	if os.IsNotExist(err) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	n := 0
	for _, e := range entries {
		if !isRecords(e.Name()) {
			continue
		}
		if n++; n%which != 0 {
			continue
		}
		if err := moveFile(filepath.Join(d.home(h), volume, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// moveFile moves a file, also from one subvolume to another one.
func moveFile(from, to string) error {
	if out, err := exec.Command("mv", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("move %s: %w: %s", from, err, out)
	}
	return nil
}

// bringBack moves the files of a folder of people into a volume, unless the volume has as much.
func (d *tablet) bringBack(h *host, dir, volume string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := d.slot(h); err != nil {
		return err
	}
	there, err := read(filepath.Join(d.home(h), volume))
	if err != nil {
		return err
	}
	here, err := read(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if there[e.Name()] >= here[e.Name()] {
			continue
		}
		if err := moveFile(filepath.Join(dir, e.Name()), filepath.Join(d.home(h), volume, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (d *tablet) newAttic() (string, error) {
	dir := filepath.Join(d.f.disk, "people", fmt.Sprintf("%s-%d", d.id, len(d.attic)))
	d.attic = append(d.attic, dir)
	return dir, os.MkdirAll(dir, 0o755)
}
