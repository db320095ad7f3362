package known

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// Catalogue is the old and the new catalogue of one volume. The new one becomes the volume's
// catalogue when the backup exists (History.Keep); otherwise nothing changes on disk
// (History.Close). The facts about the files are stored with the recipe too, as stat pages.
type Catalogue struct {
	// Rests is the evidence on which the rows of the new catalogue rest.
	Rests vault.Evidence
	// Rows says that the times of change tell of each change, so that rows are of use.
	Rows bool
	// Before finds the entries of the last backup; nil when nothing is known.
	Before  *Previous
	volume  string
	clock   func() time.Duration // Facts.Clock
	new     *vault.CatalogueFile // nil when it can't be kept
	release func()               // closes the source of Before
}

// tick is longer than any file system's clock stands still (ext3 and HFS: a second).
const tick = 2 * time.Second

// making is longer than the making of a snapshot takes, and longer than the kernel takes to write
// data that a program asked it to write. A file that is written meanwhile may be read with its new
// time of change and its old content. making stands for Volume.Taken where that time is not known.
const making = time.Minute

// Catalogue finds the known facts about the files of a volume and begins its new
// catalogue. A fault of either costs a full read, now or next time, and is a warning: the
// backup itself does not depend on it. Catalogue returns nil when no catalogue is kept.
//
// The facts count only while the same mount stands: a power cut can keep the
// bytes that were written to a file in place, and lose the change of its
// times (see package evidence). A base snapshot needs no times and no mount.
func (h *History) Catalogue(ctx context.Context, root *tree.Root, v Volume) *Catalogue {
	volume := v.Name
	if h.Catalogues == "" {
		return nil
	}
	warn := func(err error, so string) {
		h.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("catalogue of volume %s in %s: %v; %s", volume, h.Catalogues, err, so)})
	}
	c := &Catalogue{
		volume: volume, clock: h.Clock, release: func() {},
		Rests: vault.Evidence{FileSystem: root.FileSystem(), Clock: h.Booted, Young: h.Created},
	}
	h.catalogues = append(h.catalogues, c)
	moment, err := root.Settle()
	if c.Rows = err == nil; c.Rows {
		c.Rests.Mounted = cmp.Or(v.Mounted, root.Mounted())
		c.Rests.Young = h.young(v, root.Still(), moment)
	} else {
		h.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("volume %s in %s: %v; all of its files are read, now and at the next backup", volume, v.Root, err)})
	}
	// Without rows it still tells on which file system the volume lay.
	if c.new, err = h.Vault.BeginCatalogue(h.Catalogues, h.Instance, volume, c.Rests); err != nil {
		warn(err, "no catalogue is kept on this host")
	}
	if !c.Rows || v.ReadAll || h.distrusts(volume, ByTimes) {
		return c
	}
	last, f, err := h.Vault.LastCatalogue(h.Catalogues, h.Instance, volume)
	switch {
	case err == nil:
		holds := last.Evidence().Holds(c.Rests.Mounted)
		based := v.Base != nil && v.Base.Catalogue == last.ID() && !h.distrusts(volume, ByBase)
		c.release = func() { _ = f.Close() } // only read
		c.Before = &Previous{
			next: last.Next, rests: last.Evidence(), holds: holds, clock: h.Clock, without: h.Without,
			warn: func(err error) { warn(err, "the remaining files are read") },
		}
		if based {
			c.Before.base = v.Base.Changes
		}
		if holds || based {
			return c
		}
	case !errors.Is(err, fs.ErrNotExist):
		warn(err, "the last backup's is taken from the store")
	}
	if err := h.stored(ctx, c, volume, warn); err != nil && ctx.Err() == nil {
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
func (h *History) young(v Volume, still bool, moment time.Time) time.Time {
	young := h.Created
	switch {
	case !v.Taken.IsZero() && v.Taken.Before(young):
		young = v.Taken
	case v.Taken.IsZero() && still && moment.Add(tick-making).Before(young):
		return moment.Add(-making)
	case v.Taken.IsZero() && !still && h.Precopy && !v.Quiet:
		return young.Add(-making)
	}
	return young.Add(-tick)
}

// stored takes the facts that the instance's last backup has
// about the volume, if that backup looked at the same mount.
func (h *History) stored(ctx context.Context, c *Catalogue, volume string, warn func(error, string)) error {
	m, err := h.newest()
	if errors.Is(err, vault.ErrNoBackup) {
		return nil
	} else if err != nil {
		return err
	}
	vol, err := m.Volume(volume)
	if err != nil || vol.Kind != vault.KindTree || len(vol.Stats) == 0 || !vol.Evidence().Holds(c.Rests.Mounted) {
		// the volume is new, or the backup has no facts about its
		// files, or none about the files that are mounted now
		return nil
	}
	next, stop := iter.Pull2(h.Vault.StoredCatalogue(ctx, vol))
	c.release() // the catalogue of this host says less
	c.release = stop
	c.Before = &Previous{
		rests: vol.Evidence(), holds: true, clock: h.Clock, without: h.Without,
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

// Page takes a page of the new recipe. The clock is asked for each
// page, since somebody may set it back while the backup runs.
func (c *Catalogue) Page(page []byte, items []vault.Item) error {
	young := c.Rests.Until(c.clock())
	for i := range items {
		if !earlier(items[i].Ctime, young) {
			items[i].Ctime = tree.Time{} // of no file: without a base, the next backup reads it
		}
	}
	if c.new != nil && c.new.Page(page, items) != nil {
		// The disk is full, perhaps: the backup goes on, the catalogue does not.
		c.Drop()
	}
	return nil
}

// By returns by which means unchanged files of the volume are known: ByBase or ByTimes.
func (c *Catalogue) By() string {
	if c.Before != nil && c.Before.base != nil {
		return ByBase
	}
	return ByTimes
}

// Drop gives up the new catalogue. The next backup finds no file
// unchanged by it. A nil Catalogue is allowed.
func (c *Catalogue) Drop() {
	if c != nil && c.new != nil {
		c.new.Close()
		c.new = nil
	}
}

// close frees the resources of both catalogues. It is idempotent.
func (c *Catalogue) close() {
	if c.new != nil {
		c.new.Close()
	}
	c.release()
}
