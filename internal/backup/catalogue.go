package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// catalogue is the old and the new catalogue of one volume. The new one becomes the
// volume's catalogue when the backup exists (keep); otherwise nothing changes on disk
// (close). The facts about the files are stored with the recipe too, as stat pages.
type catalogue struct {
	volume string
	rest   vault.Evidence       // the evidence behind the rows of the new catalogue
	rows   bool                 // the times of change tell of each change, so that rows are of use
	clock  func() time.Duration // Options.Clock
	new    *vault.CatalogueFile // nil when it can't be kept
	before *previous            // nil when nothing is known
	done   func()               // frees what before reads
}

// tick is longer than any file system's clock stands still (ext3 and HFS: a second).
const tick = 2 * time.Second

// making is longer than the making of a snapshot takes, and longer than the kernel takes to write
// data that a program asked it to write. A file that is written meanwhile may be read with its new
// time of change and its old content. making stands for Source.Taken where that time is not known.
const making = time.Minute

// catalogue finds the known facts about a volume and begins its new catalogue. A
// fault of either costs a full read, now or next time, and is a warning: the
// backup itself does not depend on it. It returns nil when no catalogue is kept.
//
// The facts count only while the same mount stands: a power cut can keep the
// bytes that were written to a file in place, and lose the change of its
// times (see package evidence). A base snapshot needs no times and no mount.
func (r *run) catalogue(ctx context.Context, root *tree.Root, s Source) *catalogue {
	volume := s.Volume
	if r.o.CatalogueDir == "" {
		return nil
	}
	warn := func(err error, so string) {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("catalogue of volume %s in %s: %v; %s", volume, r.o.CatalogueDir, err, so)})
	}
	c := &catalogue{
		volume: volume, clock: r.o.Clock, done: func() {}, rest: vault.Evidence{FileSystem: root.FileSystem(), Clock: r.clock, Young: r.res.Created},
	}
	r.cats = append(r.cats, c)
	moment, err := root.Settle()
	if c.rows = err == nil; c.rows {
		c.rest.Mounted = cmp.Or(s.Mounted, root.Mounted())
		c.rest.Young = r.young(s, root.Still(), moment)
	} else {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("volume %s in %s: %v; all of its files are read, now and at the next backup", volume, s.Root, err)})
	}
	// Without rows it still tells on which file system the volume lay.
	if c.new, err = r.o.Vault.BeginCatalogue(r.o.CatalogueDir, r.o.Instance, volume, c.rest); err != nil {
		warn(err, "no catalogue is kept on this host")
	}
	if !c.rows || s.readAll || r.o.On.drifted.has(distrustKey(r.o.Vault, r.o.Instance, volume, ByTimes)) {
		return c
	}
	last, f, err := r.o.Vault.LastCatalogue(r.o.CatalogueDir, r.o.Instance, volume)
	switch {
	case err == nil:
		holds := last.Evidence().Holds(c.rest.Mounted)
		based := s.Base != nil && s.Base.Catalogue == last.ID() && !r.o.On.drifted.has(distrustKey(r.o.Vault, r.o.Instance, volume, ByBase))
		c.done = func() { _ = f.Close() } // only read
		c.before = &previous{
			next: last.Next, rest: last.Evidence(), holds: holds, clock: r.o.Clock, without: r.gone,
			warn: func(err error) { warn(err, "the remaining files are read") },
		}
		if based {
			c.before.base = s.Base.Changes
		}
		if holds || based {
			return c
		}
	case !errors.Is(err, fs.ErrNotExist):
		warn(err, "the last backup's is taken from the store")
	}
	if err := r.stored(ctx, c, volume, warn); err != nil && ctx.Err() == nil {
		warn(err, "all files are read")
	}
	return c
}

// young returns the time of change from which on nothing is believed of a file: it may
// have been written once more in the same tick of the clock, or while the snapshot was
// made. still says that the source is a snapshot, and moment when it was made.
//
// A direct write that was begun has set the time of change, and reaches the file later,
// on a slow disk by seconds. Snapshots wait for such writes. A round of pre-copy that
// reads a volume while its instance runs does not, and does not believe the last minute.
func (r *run) young(s Source, still bool, moment time.Time) time.Time {
	young := r.res.Created
	switch {
	case !s.Taken.IsZero() && s.Taken.Before(young):
		young = s.Taken
	case s.Taken.IsZero() && still && moment.Add(tick-making).Before(young):
		return moment.Add(-making)
	case s.Taken.IsZero() && !still && r.o.Precopy && !s.Quiet:
		return young.Add(-making)
	}
	return young.Add(-tick)
}

// ask prepares the one question to the store, when the answer is first needed.
func (r *run) ask(ctx context.Context) {
	r.earlier = sync.OnceValues(func() ([]vault.BackupRef, error) { return r.o.Vault.Backups(ctx, r.o.Instance) })
	r.newest = sync.OnceValues(func() (*vault.Manifest, error) { return r.lastBackup(ctx) })
	r.readable = sync.OnceValues(func() (*vault.Manifest, error) { return r.lastReadable(ctx) })
}

// lastBackup reads the manifest of the instance's newest backup, complete or not: the
// facts about unchanged files do not depend on the content that the backup lacks.
func (r *run) lastBackup(ctx context.Context) (*vault.Manifest, error) {
	refs, err := r.earlier()
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, vault.ErrNoBackup
	}
	return r.o.Vault.Manifest(ctx, refs[len(refs)-1])
}

// lastReadable is lastBackup, but where a manifest is damaged it goes back
// to the backup before. The error is the error of the newest manifest.
func (r *run) lastReadable(ctx context.Context) (*vault.Manifest, error) {
	m, first := r.newest()
	if first == nil || !unusable(first) {
		return m, first
	}
	refs, err := r.earlier()
	if err != nil {
		return nil, err
	}
	for _, ref := range slices.Backward(refs[:len(refs)-1]) {
		m, err := r.o.Vault.Manifest(ctx, ref)
		if err == nil || !unusable(err) && !errors.Is(err, vault.ErrNoBackup) {
			return m, err
		}
	}
	return nil, first
}

// unusable says whether a manifest was read and is of no use, so
// that reading it once more would not help.
func unusable(err error) bool {
	return errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrWrongKey) || errors.Is(err, vault.ErrNewer)
}

// asksForNewest tells whether some volume has no catalogue here, so that the newest backup is
// asked for its facts about the volume. That is a round trip that need not wait for the index.
func (r *run) asksForNewest() bool {
	return slices.ContainsFunc(r.o.Sources, func(s Source) bool {
		return !(s.readAll && s.AllowEmpty) && (r.o.CatalogueDir == "" || !r.o.Vault.HasCatalogue(r.o.CatalogueDir, r.o.Instance, s.Volume))
	})
}

// stored takes the facts that the instance's last backup has
// about the volume, if that backup looked at the same mount.
func (r *run) stored(ctx context.Context, c *catalogue, volume string, warn func(error, string)) error {
	m, err := r.newest()
	if errors.Is(err, vault.ErrNoBackup) {
		return nil
	} else if err != nil {
		return err
	}
	vol, err := m.Volume(volume)
	if err != nil || vol.Kind != vault.KindTree || len(vol.Stats) == 0 || !vol.Evidence().Holds(c.rest.Mounted) {
		// the volume is new, or the backup has no facts about its
		// files, or none about the files that are mounted now
		return nil
	}
	next, stop := iter.Pull2(r.o.Vault.StoredCatalogue(ctx, vol))
	c.done() // the catalogue of this host says less
	c.done = stop
	c.before = &previous{
		rest: vol.Evidence(), holds: true, clock: r.o.Clock, without: r.gone,
		next: func() ([]vault.Item, error) {
			items, err, ok := next()
			if !ok {
				err = io.EOF
			}
			return items, err
		},
		warn: func(err error) {
			if ctx.Err() == nil {
				warn(err, "the remaining files are read")
			}
		},
	}
	return nil
}

// page takes a page of the new recipe. The clock is asked for each
// page, since somebody may set it back while the backup runs.
func (c *catalogue) page(page []byte, items []vault.Item) error {
	young := c.rest.Until(c.clock())
	for i := range items {
		if !earlier(items[i].Ctime, young) {
			items[i].Ctime = tree.Time{} // of no file: without a base, the next backup reads it
		}
	}
	if c.new != nil && c.new.Page(page, items) != nil {
		// The disk is full, perhaps: the backup goes on, the catalogue does not.
		c.drop()
	}
	return nil
}

func earlier(a, b tree.Time) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// keep puts the new catalogue into the place of the old one and returns
// its id. When that fails the next backup reads more, and there is none.
func (c *catalogue) keep() (id string, ok bool) {
	if c.new == nil || c.new.Keep() != nil {
		return "", false
	}
	return c.new.ID(), true
}

// drop gives up the new catalogue. The next backup finds no file unchanged by it.
func (c *catalogue) drop() {
	if c != nil && c.new != nil {
		c.new.Close()
		c.new = nil
	}
}

// close frees the resources of both catalogues. It is idempotent.
func (c *catalogue) close() {
	if c.new != nil {
		c.new.Close()
	}
	c.done()
}

func (r *run) withoutSet() map[vault.PackID]bool {
	set := make(map[vault.PackID]bool, len(r.without))
	for _, id := range r.without {
		set[id] = true
	}
	return set
}

// previous finds the entries of an earlier backup in the order of
// the walk. It is for the walk's goroutine.
type previous struct {
	next  func() ([]vault.Item, error)
	rest  vault.Evidence
	clock func() time.Duration // Options.Clock
	holds bool                 // the mount stands that the items tell of
	// from this time of change on the items of the page at hand tell nothing
	until   tree.Time
	warn    func(error)
	without map[vault.PackID]bool // what these hold is not known any more
	// what may differ from the view that the catalogue is of; nil: the times alone tell
	base  Changes
	items []vault.Item
	ended bool
}

// dated tells whether the time of change of an item is evidence.
func (p *previous) dated(it *vault.Item) bool {
	return p.holds && it.Ctime != tree.Time{} && earlier(it.Ctime, p.until)
}

// find returns the known facts about e, when e is the file that the last backup stored: either
// e did not change since (the same inode, size, time of change of content and of metadata, or
// a base proves it), or e changed in part. For an unchanged file it puts flags and project id,
// which the walk did not read, into e. Calls must come in the order of the walk.
func (p *previous) find(e *tree.Entry) (known, bool) {
	for {
		it := p.peek()
		if it == nil {
			return known{}, false
		}
		if c := tree.ComparePaths(it.Path, e.Path); c < 0 || it.Continued {
			p.items = p.items[1:]
			continue
		} else if c > 0 {
			return known{}, false
		}
		break
	}
	it, most := p.items[0], wholeExtents
	if p.base != nil {
		most = patchExtents
	}
	p.items = p.items[1:]
	content := stretch{extents: it.Extents, sums: it.Sums}
	for {
		more := p.peek()
		if more == nil || !more.Continued || more.Path != e.Path {
			break
		}
		if len(content.extents)+len(more.Extents) > most || len(content.sums)+len(more.Sums) > knownSums {
			// a file of many GiB is rather read than held in memory as extents and sums
			return known{}, false
		}
		content.extents, content.sums = append(content.extents, more.Extents...), append(content.sums, more.Sums...)
		p.items = p.items[1:]
	}
	if len(content.sums) != vault.Pieces(content.extents) {
		content.sums = nil
	}
	k, ok := p.judge(&it, e, content)
	if ok && k.same {
		// a change of those shows in the time of change too
		e.Flags, e.Project = it.Flags, it.Project
	}
	return k, ok
}

// peek returns the next item, or nil at the end or after a fault.
func (p *previous) peek() *vault.Item {
	for len(p.items) == 0 && !p.ended {
		items, err := p.next()
		p.until = p.rest.Until(p.clock())
		if err != nil {
			p.ended = true
			if !errors.Is(err, io.EOF) {
				p.warn(err)
			}
		}
		p.items = items
	}
	if len(p.items) == 0 {
		return nil
	}
	return &p.items[0]
}
