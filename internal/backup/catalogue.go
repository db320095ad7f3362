package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// catalogue is the old and the new catalogue of one volume. It becomes the volume's catalogue when the
// backup exists (keep); else nothing changes on disk (close).
type catalogue struct {
	path   string
	tmp    *os.File
	w      *vault.CatalogueWriter
	before *previous
	old    *os.File // what before reads; nil when there is none
	// young is from where on a time of change is too near to the walk: a later write in the same tick of
	// the file system's clock would show the same time.
	young tree.Time
}

// tick is longer than any file system's clock stands still (ext3 and HFS: a second).
const tick = 2 * time.Second

// making is longer than it takes to make a snapshot: a file written meanwhile may be in it with its new
// time of change and its old content.
const making = time.Minute

// catalogue opens the old catalogue of a volume and begins the new one. A fault of the old one, or of
// the folder, costs a full read and is a warning: the backup itself does not depend on it.
func (r *run) catalogue(root *tree.Root, volume string) (*catalogue, error) {
	if r.o.CatalogueDir == "" {
		return nil, nil
	}
	dir := filepath.Join(r.o.CatalogueDir, r.o.Vault.Fingerprint())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.warnings.Warn(tree.Warning{Path: dir, What: "catalogue can't be kept here: " + err.Error()})
		return nil, nil
	}
	c := &catalogue{path: filepath.Join(dir, r.o.Instance+"+"+volume)}
	// An earlier run that was killed left its own behind, if any. Should another backup of this volume be
	// running, it keeps no catalogue, and no more happens.
	beginning := unfinished + r.o.Instance + "+" + volume + "-"
	removeUnfinished(dir, beginning)
	tmp, err := os.CreateTemp(dir, beginning)
	if err != nil {
		r.warnings.Warn(tree.Warning{Path: dir, What: "catalogue can't be kept here: " + err.Error()})
		return nil, nil
	}
	c.tmp = tmp
	r.cats = append(r.cats, c)
	if c.w, err = r.o.Vault.NewCatalogue(tmp); err != nil {
		return nil, err
	}
	moment, err := root.Settle()
	if err != nil {
		r.warnings.Warn(tree.Warning{Path: c.path, What: err.Error() + "; all files are read"})
		c.w = nil // nor can a later backup rely on times of change
		return c, nil
	}
	young := r.res.Created.Add(-tick)
	if s := moment.Add(-making); s.Before(young) && root.Still() {
		young = s
	}
	c.young = tree.Time{Sec: young.Unix(), Nsec: uint32(young.Nanosecond())}
	if c.old, err = os.Open(c.path); err == nil {
		rd, err := r.o.Vault.OpenCatalogue(c.old)
		if err != nil {
			r.warnings.Warn(tree.Warning{Path: c.path, What: err.Error() + "; all files are read"})
			return c, nil
		}
		c.before = &previous{next: rd.Next, warn: func(err error) {
			r.warnings.Warn(tree.Warning{Path: c.path, What: err.Error() + "; the remaining files are read"})
		}}
	}
	return c, nil
}

// unfinished begins the name of a catalogue that is being written.
const unfinished = ".new-"

// SweepCatalogues removes what killed backups left in a folder of catalogues. No backup may be running
// that uses the folder. It is best effort: what stays costs room and nothing else.
func SweepCatalogues(dir string) {
	vaults, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, v := range vaults {
		removeUnfinished(filepath.Join(dir, v.Name()), unfinished)
	}
}

func removeUnfinished(dir, beginning string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, n := range names {
		// What CreateTemp adds has no "-": volume "data" leaves alone what volume "data-2" has.
		if rest, ok := strings.CutPrefix(n.Name(), beginning); ok && (beginning == unfinished || !strings.Contains(rest, "-")) {
			_ = os.Remove(filepath.Join(dir, n.Name()))
		}
	}
}

// page takes a page of the new recipe.
func (c *catalogue) page(page []byte, items []vault.Item) error {
	for i := range items {
		if !earlier(items[i].Ctime, c.young) {
			items[i].Ino = 0 // no inode has this number: the next backup reads the file
		}
	}
	if c.w == nil {
		return nil
	}
	if err := c.w.Page(page, items); err != nil {
		// The disk is full, perhaps. The backup goes on, the catalogue does not.
		c.w = nil
	}
	return nil
}

func earlier(a, b tree.Time) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// keep puts the new catalogue into the place of the old one. When that fails, the old one stays, which
// says of no file that it is unchanged unless it is.
func (c *catalogue) keep() {
	if c.w == nil || c.w.Close() != nil {
		return
	}
	_ = os.Rename(c.tmp.Name(), c.path)
}

// close frees what is left. It is idempotent.
func (c *catalogue) close() {
	_ = c.tmp.Close()
	_ = os.Remove(c.tmp.Name()) // gone when it was kept
	if c.old != nil {
		_ = c.old.Close()
	}
}

// previous finds the entries of the last backup in the order of the walk. It is for the walk's goroutine.
type previous struct {
	next  func() ([]vault.Item, error)
	warn  func(error)
	items []vault.Item
	ended bool
}

// find returns where the content of e is stored, when e is the file that the last backup stored and did
// not change since: the same inode, size, time of change of content and of metadata. Calls must come in
// the order of the walk.
func (p *previous) find(e *tree.Entry) ([]vault.Extent, bool) {
	for {
		it := p.peek()
		if it == nil {
			return nil, false
		}
		if c := tree.ComparePaths(it.Path, e.Path); c < 0 || it.Continued {
			p.items = p.items[1:]
			continue
		} else if c > 0 {
			return nil, false
		}
		break
	}
	it := p.items[0]
	p.items = p.items[1:]
	extents := it.Extents
	for {
		more := p.peek()
		if more == nil || !more.Continued || more.Path != e.Path {
			break
		}
		if len(extents)+len(more.Extents) > wholeExtents {
			return nil, false // a file of many GiB is rather read than held in memory as extents
		}
		extents = append(extents, more.Extents...)
		p.items = p.items[1:]
	}
	same := it.Kind == tree.File && !it.HasLinkTo && it.Ino == e.Ino && it.Size == e.Size && it.Mtime == e.Mtime && it.Ctime == e.Ctime
	if !same {
		return nil, false
	}
	if extents == nil {
		extents = []vault.Extent{} // a file of holes only is known too
	}
	return extents, true
}

// peek returns the next item, or nil at the end or after a fault.
func (p *previous) peek() *vault.Item {
	for len(p.items) == 0 && !p.ended {
		items, err := p.next()
		if err != nil {
			p.ended = true
			if !errors.Is(err, io.EOF) {
				p.warn(fmt.Errorf("last backup's catalogue: %w", err))
			}
		}
		p.items = items
	}
	if len(p.items) == 0 {
		return nil
	}
	return &p.items[0]
}
