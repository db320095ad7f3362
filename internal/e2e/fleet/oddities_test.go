package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/origin"
)

// oddity is a thing that people do to a tablet, with what follows until the tablet runs again.
type oddity struct {
	name   string
	weight int // how often it is in a deck
	do     func(ctx context.Context, d *tablet) error
}

// oddities is the list.
var oddities = []oddity{
	{"tablet moved", 2, func(ctx context.Context, d *tablet) error { return d.move(ctx) }},
	{"tablet crashed", 2, func(ctx context.Context, d *tablet) error { return d.crash(ctx) }},
	{"volumes emptied", 2, func(ctx context.Context, d *tablet) error { return d.emptied(ctx) }},
	{"slot refilled", 3, func(ctx context.Context, d *tablet) error { return d.refilled(ctx) }},
	{"old disk in the slot", 1, func(ctx context.Context, d *tablet) error { return d.oldDisk(ctx, false) }},
	{"old content in the same folder", 1, func(ctx context.Context, d *tablet) error { return d.oldDisk(ctx, true) }},
	{"prepared on two hosts", 2, func(ctx context.Context, d *tablet) error { return d.double(ctx) }},
	{"given to another tenant", 1, func(ctx context.Context, d *tablet) error { return d.change(ctx) }},
	{"host copied, the copy is a new host", 1, func(ctx context.Context, d *tablet) error { return d.atWild(ctx, d.cloned) }},
	{"host copied, the copy takes over", 1, func(ctx context.Context, d *tablet) error { return d.atWild(ctx, d.replacedByClone) }},
	{"journal set back", 1, func(ctx context.Context, d *tablet) error { return d.atWild(ctx, d.setBack) }},
	{"journal lost", 1, func(ctx context.Context, d *tablet) error { return d.atWild(ctx, d.lose) }},
}

// deck deals oddities: each of them as often as its weight says, in an order that the seed gives,
// and after that any, until the time of the fleet is over.
type deck struct {
	mu   sync.Mutex
	r    *rand.Rand
	rest []*oddity
}

func newDeck(seed uint64) *deck {
	c := &deck{r: rand.New(rand.NewPCG(seed, 3))}
	c.rest = allOddities()
	c.r.Shuffle(len(c.rest), func(i, j int) { c.rest[i], c.rest[j] = c.rest[j], c.rest[i] })
	return c
}

func allOddities() (all []*oddity) {
	for i := range oddities {
		for range oddities[i].weight {
			all = append(all, &oddities[i])
		}
	}
	return all
}

// deal returns the next one; nil when the first deck is dealt and the time is over.
func (c *deck) deal(over bool) *oddity {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rest) > 0 {
		next := c.rest[0]
		c.rest = c.rest[1:]
		return next
	}
	if over {
		return nil
	}
	all := allOddities()
	return all[c.r.IntN(len(all))]
}

// live has one oddity after another happen to the tablet until moving ends and all were dealt.
func (d *tablet) live(moving, patient context.Context) error {
	if err := d.move(patient); err != nil { // so that there is a backup
		return fmt.Errorf("%s moves for the first time: %w", d.id, err)
	}
	for {
		next := d.f.deck.deal(moving.Err() != nil)
		if next == nil {
			return nil
		}
		if !d.f.wants(next.name) {
			continue
		}
		began := time.Now()
		d.f.trail.note("%s: %s", d.id, next.name)
		if err := next.do(patient, d); err != nil {
			return fmt.Errorf("%s: %s: %w", d.id, next.name, err)
		}
		d.check(patient, next.name)
		d.f.trail.count("oddity: " + next.name)
		d.f.trail.count("oddities")
		d.f.trail.note("%s: %s is over after %.1f s", d.id, next.name, time.Since(began).Seconds())
	}
}

// move takes the tablet to another host.
func (d *tablet) move(ctx context.Context) error {
	from := d.where()
	to := d.other(from)
	defer d.stay(from, to)()
	if err := d.leave(ctx, from); err != nil {
		return err
	}
	return d.arrive(ctx, to, asUsual)
}

// crash ends the tablet, and has it prepared on the very host that has its newest bytes.
func (d *tablet) crash(ctx context.Context) error {
	h := d.where()
	defer d.stay(h)()
	if err := d.freshAndStopped(ctx, h); err != nil {
		return err
	}
	return d.arrive(ctx, h, isReady)
}

func (d *tablet) freshAndStopped(ctx context.Context, h *host) error {
	if err := d.fresh(ctx, h); err != nil {
		return err
	}
	return d.stop(ctx, h)
}

// filled has a tablet whose volumes are empty write to both of them from now on.
func (d *tablet) filled(ctx context.Context, h *host) error {
	if len(d.writes) > 0 {
		return nil
	}
	d.writes = volumeNames
	if err := d.stop(ctx, h); err != nil {
		return err
	}
	if err := d.describe(h); err != nil {
		return err
	}
	return d.fresh(ctx, h)
}

// emptied has somebody empty volumes of a crashed tablet, or take one away. Where the
// prepare is refused, the content comes back.
func (d *tablet) emptied(ctx context.Context) error {
	h := d.where()
	defer d.stay(h)()
	if err := d.freshAndStopped(ctx, h); err != nil {
		return err
	}
	volumes := [][]string{{"data"}, {"media"}, volumeNames}[d.r.IntN(3)]
	missing := d.r.IntN(3) == 0
	taken := map[string]string{}
	for _, v := range volumes {
		dir, err := d.takeOut(h, v, 1)
		if err != nil {
			return err
		}
		taken[v] = dir
		if missing {
			if err := d.takeAway(h, v); err != nil {
				return err
			}
		}
	}
	d.f.trail.note("%s: volumes %v are emptied on %s, missing: %v", d.id, volumes, h.name, missing)
	end, _, err := d.prepare(ctx, h, "", asUsual)
	if err != nil {
		return err
	}
	d.check(ctx, "prepare over emptied volumes")
	if end == restoreFailed {
		if err := d.stop(ctx, h); err != nil {
			return err
		}
		for v, dir := range taken {
			if err := d.bringBack(h, dir, v); err != nil {
				return err
			}
		}
	}
	return d.arrive(ctx, h, asUsual)
}

// refilled has a platform fill a slot from a template: of a crashed tablet, or on the next host.
func (d *tablet) refilled(ctx context.Context) error {
	h := d.where()
	to := h
	here := d.r.IntN(2) == 0
	if !here {
		to = d.other(h)
	}
	defer d.stay(h, to)()
	if here {
		if err := d.freshAndStopped(ctx, h); err != nil {
			return err
		}
	} else if err := d.leave(ctx, h); err != nil {
		return err
	}
	d.park(to, true)
	kind, want := d.r.IntN(3), isReplaced
	switch kind {
	case 0: // the folders are made anew
		if err := d.takeAway(to, volumeNames...); err != nil {
			return err
		}
	case 1: // in place
		for _, v := range volumeNames {
			if _, err := d.takeOut(to, v, 1); err != nil {
				return err
			}
		}
	case 2: // half of the files are deleted, and nobody may tell from a part that it is one
		want = asUsual
		for _, v := range volumeNames {
			if _, err := d.takeOut(to, v, 2); err != nil {
				return err
			}
		}
	}
	if len(d.writes) == 0 {
		want = asUsual // the backup has nothing of it that could be missing
	}
	if err := d.template(to); err != nil {
		return err
	}
	d.f.trail.note("%s: the slot on %s is filled anew, kind %d", d.id, to.name, kind)
	return d.arrive(ctx, to, want)
}

// templateOwner stands in the place of a tenant in the records of a template.
const templateOwner = "template"

// template writes some files into the slot on a host. The ledger has them as told.
func (d *tablet) template(h *host) error {
	if err := d.slot(h); err != nil {
		return err
	}
	const records = 3
	for k := range 3 {
		name := fmt.Sprintf("t-%d-%d", len(d.templates), k)
		var text []byte
		for n := range records {
			text = append(text, record(templateOwner, d.id, name, n+1)...)
		}
		if err := os.WriteFile(filepath.Join(d.home(h), "data", name), text, 0o600); err != nil {
			return err
		}
		d.templates[name] = records
	}
	return nil
}

// oldDisk brings the content of an earlier time back, after a crash: a copy of the disk, or
// files in the same folder as it was, each with the mark of then or without.
func (d *tablet) oldDisk(ctx context.Context, inPlace bool) error {
	h := d.where()
	defer d.stay(h)()
	if err := d.filled(ctx, h); err != nil {
		return err
	}
	if err := d.freshAndStopped(ctx, h); err != nil {
		return err
	}
	old := filepath.Join(d.f.disk, "old", fmt.Sprintf("%s-%d", d.id, d.requests))
	marks := map[string][]byte{}
	for _, v := range volumeNames {
		if err := copyTree(filepath.Join(d.home(h), v), filepath.Join(old, v)); err != nil {
			return err
		}
		buf := make([]byte, 4096)
		if n, err := unix.Getxattr(filepath.Join(d.home(h), v), origin.Attribute, buf); err == nil {
			marks[v] = buf[:n]
		}
	}
	if err := d.arrive(ctx, h, isReady); err != nil {
		return err
	}
	if err := d.leave(ctx, h); err != nil {
		return err
	}
	if err := d.arrive(ctx, h, isReady); err != nil {
		return err
	}
	if err := d.freshAndStopped(ctx, h); err != nil {
		return err
	}
	marked := d.r.IntN(2) == 0
	want := isReplaced
	if inPlace && !marked {
		want = asUsual // nothing is left that tells
	}
	d.f.trail.note("%s: old content on %s, in the same folder: %v, with the mark of then: %v", d.id, h.name, inPlace, marked)
	for _, v := range volumeNames {
		if err := d.putOld(h, v, filepath.Join(old, v), marks[v], inPlace, marked); err != nil {
			return err
		}
	}
	return d.arrive(ctx, h, want)
}

// putOld puts a copy of a volume into the volume's place.
func (d *tablet) putOld(h *host, volume, old string, mark []byte, inPlace, marked bool) error {
	at := filepath.Join(d.home(h), volume)
	if inPlace {
		if _, err := d.takeOut(h, volume, 1); err != nil {
			return err
		}
	} else if err := d.takeAway(h, volume); err != nil {
		return err
	}
	if err := copyTree(old, at); err != nil {
		return err
	}
	switch {
	case marked && mark != nil:
		return unix.Setxattr(at, origin.Attribute, mark, 0)
	case !inPlace:
		if err := unix.Removexattr(at, origin.Attribute); err != nil && err != unix.ENODATA { //nolint:errorlint // a number
			return err
		}
	}
	return nil
}

// copyTree copies the content of a folder into another one, which is made where it is not there.
func copyTree(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from+"/.", to+"/").CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// double has the tablet run on two hosts, although the second prepare is refused: an engine starts
// what lies there. Both hosts back it up, so that there is a fork, of which somebody decides.
func (d *tablet) double(ctx context.Context) error {
	a := d.where()
	b := d.other(a)
	defer d.stay(a, b)()
	if err := d.filled(ctx, a); err != nil {
		return err
	}
	if err := d.fresh(ctx, a); err != nil {
		return err
	}
	end, _, err := d.prepare(ctx, b, "", asUsual)
	if err != nil {
		return err
	}
	d.f.trail.count("second prepares: " + end)
	if end == restoreFailed {
		if err := d.slot(b); err != nil {
			return err
		}
	}
	if err := d.fresh(ctx, b); err != nil {
		return err
	}
	if _, _, err := d.prepare(ctx, b, "", asUsual); err != nil {
		return err
	}
	d.check(ctx, "a second prepare")
	if err := d.fresh(ctx, a); err != nil {
		return err
	}
	both := []*host{a, b}
	if d.r.IntN(2) == 0 {
		slices.Reverse(both)
	}
	return d.branches(ctx, both)
}

// branches backs the tablet up on two hosts, of which each lacks content of the
// other, accepts one of the backups, and brings that backup back.
func (d *tablet) branches(ctx context.Context, both []*host) error {
	var works []work
	var reports []told
	for i, h := range both {
		for n := 0; ; n++ {
			w, end, r, err := d.backup(ctx, h)
			if err != nil {
				return err
			}
			if end == backupCompleted {
				d.forked(ctx, w, r)
				works, reports = append(works, w), append(reports, r)
				break
			}
			if n == 10 {
				return fmt.Errorf("can't be backed up on %s: %s", h.name, r.Reason)
			}
			if err := d.start(ctx, h); err != nil {
				return err
			}
		}
		if i == 0 && len(reports[0].Fork) == 0 { // it continues the newest: no reason to wait
			if gone, err := d.finish(ctx, works[0], reports[0], ""); err != nil {
				return err
			} else if !gone {
				d.f.trail.count("doubles that began anew")
				return d.again(ctx, both)
			}
		}
	}
	if len(reports[1].Fork) == 0 {
		d.f.found("%s ran on %s and on %s, and backup %s does not tell of a fork with %s", d.id, both[0].name, both[1].name, reports[1].Backup, reports[0].Backup)
	}
	accepted := reports[d.r.IntN(2)].Backup
	for i, w := range works {
		if len(reports[i].Fork) == 0 {
			continue // it is released already, or the fault was told
		}
		if gone, err := d.finish(ctx, w, reports[i], accepted); err != nil {
			return err
		} else if !gone {
			return d.again(ctx, both)
		}
	}
	return d.arrive(ctx, d.other(nil), asUsual)
}

// again brings the tablet down on both hosts, after somebody let it run on one of them.
func (d *tablet) again(ctx context.Context, both []*host) error {
	for _, h := range both {
		if err := d.leave(ctx, h); err != nil {
			return err
		}
	}
	return d.arrive(ctx, both[0], asUsual)
}
