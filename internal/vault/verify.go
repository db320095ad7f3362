package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// VerifyOptions say which backups are verified, and how deep.
type VerifyOptions struct {
	Instance string // "" is all
	Backup   string // "" is all of the instance
	// ReadDataPercent of the packs, chosen at random and rounded up, are
	// read whole, and every chunk in them is opened and compared with its
	// name; 0 to 100. The tables of all packs are opened in any case.
	ReadDataPercent float64
	// Progress is called after each step, one call at a time. Nil is allowed.
	Progress func(VerifyProgress)
}

// VerifyProgress says how far a verification is.
type VerifyProgress struct {
	Backups, BackupsDone int
	Packs, PacksDone     int
	BytesRead            uint64
}

// VerifyReport is the result of a verification.
type VerifyReport struct {
	Backups   int      `json:"backups"` // of which manifest and recipes were looked at
	Items     uint64   `json:"items"`
	Packs     int      `json:"packs"`
	Chunks    uint64   `json:"chunks"` // read and compared with their names
	BytesRead uint64   `json:"bytes_read"`
	Damaged   []Damage `json:"damaged"` // empty when all is well
	// Unread lists objects that could not be looked at, for a reason that lies
	// with them alone, for example denied access. Their content is not known.
	Unread []Damage `json:"unread"`
	// Unprotected lists packs whose lock ends before the
	// lock of a backup that needs them. Nothing is lost yet.
	Unprotected []Damage `json:"unprotected"`
	// Incomplete are the backups that lack content since they were made. They are not damaged.
	Incomplete []IncompleteBackup `json:"incomplete"`
}

// IncompleteBackup is a backup that lacks content that nobody agreed to lose.
type IncompleteBackup struct {
	Backup string `json:"backup"` // instance/id
	Lost   uint64 `json:"lost"`   // places
}

// Findings is how many objects there is something to say about.
func (r *VerifyReport) Findings() int { return len(r.Damaged) + len(r.Unread) + len(r.Unprotected) }

// Damage is one thing that is not as it was stored, or is to be.
type Damage struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
	// Backups that can't be restored whole because of it.
	Backups []string `json:"backups"` // none for the index, which only spares new backups work
}

// Verify reads manifests, recipes, pack tables and, when all backups are
// verified, the index, and as much content as asked, and reports damage. Its
// error tells why it could not look, and never reports damage. It takes 64 MiB
// of memory for the references in recipes, and keeps more in temporary files.
func (v *Vault) Verify(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	return v.verify(ctx, o, verifyBudget)
}

func (v *Vault) verify(ctx context.Context, o VerifyOptions, budget int) (VerifyReport, error) {
	refs, err := v.Backups(ctx, o.Instance)
	if err != nil {
		return VerifyReport{}, err
	}
	if o.Backup != "" {
		refs = slices.DeleteFunc(refs, func(r BackupRef) bool { return r.ID != o.Backup })
	}
	if len(refs) == 0 && (o.Instance != "" || o.Backup != "") {
		return VerifyReport{}, fmt.Errorf("%w: %s %s in vault %s (%s)", ErrNoBackup, o.Instance, o.Backup, v.info.Name, v.st)
	}
	c := &check{
		v: v, o: o, backups: refs, named: newRefSorter(budget), numbers: map[PackID]uint32{}, pages: map[uint64]struct{}{},
		damage: map[string]*Damage{}, unread: map[string]*Damage{}, unprotected: map[string]*Damage{}, hurt: map[PackID]bool{},
	}
	defer c.named.close()
	c.progress.Backups = len(refs)
	for i := range refs {
		if err := c.backup(ctx, i); err != nil {
			return c.report, err
		}
	}
	c.pages = nil
	if err := c.checkPacks(ctx); err != nil {
		return c.report, err
	}
	if err := c.findGone(ctx); err != nil {
		return c.report, err
	}
	if err := c.nameBackups(ctx); err != nil {
		return c.report, err
	}
	if o.Instance == "" && o.Backup == "" {
		// No restore needs the index, but it spares new backups the storing of known chunks.
		set, err := v.index().Check(ctx)
		if err != nil {
			return c.report, err
		}
		set.Close()
		for id, err := range set.Damaged() {
			if err := c.found(err, v.index().Key(id)); err != nil {
				return c.report, err
			}
		}
	}
	c.report.Damaged, c.report.Unread, c.report.Unprotected = listed(c.damage), listed(c.unread), listed(c.unprotected)
	return c.report, nil
}

// listed returns the findings in the order of their objects.
func listed(found map[string]*Damage) (all []Damage) {
	for _, d := range found {
		slices.Sort(d.Backups)
		d.Backups = slices.Compact(d.Backups)
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	return all
}

// check is one verification.
type check struct {
	v       *Vault
	o       VerifyOptions
	backups []BackupRef
	gone    []int // of backups: listed, and then not found

	numbers map[PackID]uint32 // of packs
	packs   []packUse
	named   *refSorter
	pages   map[uint64]struct{} // whose chunks are in named already, by pack number and offset

	mu          sync.Mutex
	damage      map[string]*Damage
	unread      map[string]*Damage
	unprotected map[string]*Damage
	hurt        map[PackID]bool // packs of which the backups that name them have to be told
	report      VerifyReport
	progress    VerifyProgress
}

// packUse tells how the manifests use one pack.
type packUse struct {
	id   PackID
	size int64
	// the latest end of the lock of a manifest that names it, seconds since 1970; 0 is none
	until int64
	by    uint32 // the number of that backup
	last  uint32 // the number plus one of the last backup whose manifest names it
}

// maxPages bounds the pages whose chunks a verification knows to be
// noted. The chunks of further pages are noted again, and sorted out.
const maxPages = 1 << 20

// found files err, which is about that object, or returns it when it is
// about the way to the store. A *CorruptError may name another object.
func (c *check) found(err error, object string, backups ...string) error {
	if err == nil {
		return nil
	}
	if ce, ok := errors.AsType[*CorruptError](err); ok {
		c.file(c.damage, ce.Object, ce.Reason, backups...)
		return nil
	}
	for _, class := range []error{ErrNewer, obs.ErrAccess, obs.ErrCold} {
		if errors.Is(err, class) {
			c.file(c.unread, object, err.Error(), backups...)
			return nil
		}
	}
	return err
}

// file adds a finding. Of several about one object it keeps the first reason.
func (c *check) file(where map[string]*Damage, object, reason string, backups ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := where[object]
	if d == nil {
		d = &Damage{Object: object, Reason: reason}
		where[object] = d
	}
	d.Backups = append(d.Backups, backups...)
}

func (c *check) tell(change func(*VerifyProgress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.progress)
	if c.o.Progress != nil {
		c.o.Progress(c.progress)
	}
}

// backup opens the manifest of a backup and its recipes, and notes their references.
func (c *check) backup(ctx context.Context, number int) error {
	defer c.tell(func(p *VerifyProgress) { p.BackupsDone++ })
	ref := c.backups[number]
	name, key := ref.Instance+"/"+ref.ID, c.v.manifestKey(ref.Instance, ref.ID)
	m, err := c.v.Manifest(ctx, ref)
	if errors.Is(err, ErrNoBackup) {
		c.gone = append(c.gone, number)
		return nil
	} else if err != nil {
		return c.found(err, key, name)
	}
	c.report.Backups++
	if m.Lost > 0 {
		c.report.Incomplete = append(c.report.Incomplete, IncompleteBackup{Backup: name, Lost: m.Lost})
	}
	info, err := c.v.st.Stat(ctx, key)
	if err != nil && !errors.Is(err, obs.ErrNotFound) {
		return c.found(err, key, name)
	}
	for _, p := range m.Packs {
		if err := c.use(p, number, info.RetainUntil, name); err != nil {
			return err
		}
	}
	for i := range m.Volumes {
		err := c.volume(ctx, m, &m.Volumes[i], number)
		if err := c.found(err, key, name); err != nil {
			return err
		}
	}
	return nil
}

// use notes a pack that a manifest names, whose lock ends then.
func (c *check) use(p PackRef, number int, locked time.Time, name string) error {
	n, known := c.numbers[p.ID]
	if !known {
		n = uint32(len(c.packs))
		c.numbers[p.ID] = n
		c.packs = append(c.packs, packUse{id: p.ID, size: p.Size})
	}
	u := &c.packs[n]
	u.last = uint32(number) + 1
	if !locked.IsZero() && locked.Unix() > u.until {
		u.until, u.by = locked.Unix(), uint32(number)
	}
	if u.size != p.Size {
		return c.found(&CorruptError{Object: c.v.packKey(p.ID), Reason: fmt.Sprintf("has %d bytes as one manifest says, %d as another does", u.size, p.Size)}, "", name)
	}
	return nil
}

// volume reads the recipe of a volume.
func (c *check) volume(ctx context.Context, m *Manifest, vol *Volume, number int) error {
	var last follower
	var entries uint64
	all := func(lists [][]PageRef) ([]PageRef, error) { return slices.Concat(lists...), nil }
	err := c.v.readPages(ctx, vol.Lists, all, func(_ int, ref PageRef, plain []byte) error {
		items, err := c.v.decodePage(plain)
		if err != nil {
			return c.v.badMeta(ref, err)
		}
		c.report.Items += uint64(len(items))
		fresh := c.newPage(ref)
		for _, it := range items {
			if err := c.item(m, it.Extents, number, fresh); err != nil {
				return err
			}
			if err := last.follow(&it); err != nil {
				return &CorruptError{Object: m.Object, Reason: err.Error()}
			}
			if !it.Continued {
				entries++
			}
		}
		return nil
	})
	if err == nil && entries != vol.Entries {
		err = &CorruptError{Object: m.Object, Reason: fmt.Sprintf("names %d entries of volume %s, its recipe has %d", vol.Entries, vol.Name, entries)}
	}
	return err
}

// newPage tells whether the chunks of a page have to be noted: the
// chunks of a page that an earlier recipe named are noted already.
func (c *check) newPage(ref PageRef) bool {
	n, known := c.numbers[ref.Pack]
	if !known {
		return true
	}
	key := uint64(n)<<32 | uint64(ref.Off)
	if _, seen := c.pages[key]; seen {
		return false
	}
	if len(c.pages) < maxPages {
		c.pages[key] = struct{}{}
	}
	return true
}

// item notes the chunks of a file, all of which have to be in packs that the manifest lists.
func (c *check) item(m *Manifest, extents []Extent, number int, fresh bool) error {
	for _, x := range extents {
		n, known := c.numbers[x.Chunk.Pack]
		if !known || c.packs[n].last != uint32(number)+1 {
			return &CorruptError{Object: m.Object, Reason: fmt.Sprintf("does not list pack %s, which its recipe names", x.Chunk.Pack)}
		}
		if !fresh {
			continue
		}
		if err := c.named.add(chunkRef{pack: n, off: x.Chunk.Off, size: x.Chunk.Len, raw: x.Chunk.Raw}); err != nil {
			return err
		}
	}
	return nil
}

// findGone judges the backups that were listed and then not found:
// they were deleted meanwhile, unless they are still listed.
func (c *check) findGone(ctx context.Context) error {
	if len(c.gone) == 0 {
		return nil
	}
	now, err := c.v.Backups(ctx, c.o.Instance)
	if err != nil {
		return err
	}
	for _, i := range c.gone {
		ref := c.backups[i]
		if slices.ContainsFunc(now, func(r BackupRef) bool { return r.Instance == ref.Instance && r.ID == ref.ID }) {
			c.file(c.damage, c.v.manifestKey(ref.Instance, ref.ID), "is in the store's list, and the store does not find it", ref.Instance+"/"+ref.ID)
		}
	}
	return nil
}
