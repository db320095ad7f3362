package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/obs"
	"holdfast/internal/vault/secondlook"
)

// Errors of Copy that callers decide on.
var (
	// ErrSameStore says that the source and the destination of a copy are one store under two URLs.
	ErrSameStore = errors.New("source and destination of the copy are the same store")
	// ErrOtherVault says that the destination holds another vault under the id of the
	// source's vault, or objects of a vault of which nobody can tell which vault it is.
	ErrOtherVault = errors.New("the destination holds another vault under this id")
	// ErrCollected says that a collector is at work in the destination, or died there.
	ErrCollected = errors.New("a collector is at work in the destination, or died there")
	// ErrEmptied says that more than half of a destination
	// would go, as if somebody had emptied the source.
	ErrEmptied = errors.New("more than half of the destination would be removed")
	// ErrInUse says that sessions stand in a vault, so that somebody may be writing to the vault.
	ErrInUse = errors.New("somebody is at work in the vault")
)

// CopyOptions say which objects Copy copies and how.
type CopyOptions struct {
	ID string // of the vault, in both stores
	// Vault is the source's vault, opened with a key; nil copies without a key. With a key each
	// object is opened before it is put, and a backup whose packs did not arrive is left out.
	Vault *Vault
	// Instance copies the backups of one instance and the packs that they name. It needs Vault.
	// The index stays behind: most of it tells of other packs. "" copies all.
	Instance string
	// Verify reads every object on both sides, and compares the bytes.
	Verify bool
	// DeleteExtra removes the backups that a copy has put there and that
	// the source has no more, and then the packs and index segments that
	// no backup of the destination needs. It needs Vault.
	DeleteExtra bool
	// AllowEmptied lets DeleteExtra remove more than half of the destination.
	AllowEmptied bool
	// DryRun compares the lists and changes nothing.
	DryRun bool
	// Session says whose session the copy has in the destination.
	Session SessionOptions
	// Progress is called after each object, one call at a time. Nil is allowed.
	Progress func(CopyProgress)
	// Warn is told of faults that do no harm to the copy. Nil is allowed.
	Warn func(error)
}

// CopyProgress says how far a copy is. Totals grow while the copy finds more to do.
type CopyProgress struct {
	Objects, ObjectsDone int
	Bytes, BytesDone     uint64 // of those objects
}

// CopyCount counts the objects of one kind.
type CopyCount struct {
	Source  int    `json:"source"`  // that the source has and the copy is about
	Missing int    `json:"missing"` // that the destination did not have at the beginning
	Copied  int    `json:"copied"`
	Bytes   uint64 `json:"copied_bytes"`
	Extra   int    `json:"extra"`   // that the destination has and the source does not
	Removed int    `json:"removed"` // of the extra ones
}

// CopyReport is the result of a copy.
type CopyReport struct {
	ID      string    `json:"id"`
	DryRun  bool      `json:"dry_run"`
	Packs   CopyCount `json:"packs"`
	Index   CopyCount `json:"index"`
	Backups CopyCount `json:"backups"`
	Headers CopyCount `json:"headers"`
	// Decisions about forks, and holds. Extra ones stay.
	Decisions CopyCount `json:"decisions"`
	Holds     CopyCount `json:"holds"`
	Moved     CopyCount `json:"moved"` // relocations of packs; extra ones stay
	// Gone counts the objects that the source deleted between the list and the read.
	Gone int `json:"gone"`
	// Failed lists the objects that could not be copied, or that differ between the two sides.
	Failed []Damage `json:"failed"`
	// LeftOut names the backups (instance/id) that were not copied because other objects failed.
	LeftOut []string `json:"left_out"`
	// Verified counts the objects that were read on both sides and compared.
	Verified      int    `json:"verified"`
	VerifiedBytes uint64 `json:"verified_bytes"`
}

// Whole tells whether the destination has all that the source had when the copy began.
func (r *CopyReport) Whole() bool { return len(r.Failed) == 0 && len(r.LeftOut) == 0 }

const (
	// copyInFlight is how many objects are on their way at once.
	copyInFlight = 8
	// copyMemory bounds the bytes of the objects on their way; one object is always allowed.
	copyMemory = 256 << 20
	// copyRounds is how often a copy puts back objects that vanish from the destination meanwhile.
	copyRounds = 3
	// maxCopyFailures ends a copy of which nearly every object fails.
	maxCopyFailures = 1000
)

// copier is one copy under way.
type copier struct {
	o        CopyOptions
	src, dst *Vault // without keys where the copy has no key
	from, to copyLists
	// The sessions of the copy in the destination: as a writer, and as a collector where the copy
	// removes packs.
	writes, collects *Session

	kept map[string]bool // backups, instance/id, that the source had at both lists

	moved      []smallRef // relocations of the source, by the last list
	movedPacks map[PackID]bool

	mu      sync.Mutex
	failed  map[PackID]bool // packs that the destination does not get, since something is wrong with them
	gone    map[PackID]bool // packs that the source deleted meanwhile
	leftOut map[string]bool // backups, instance/id, that are not copied
	// movedFailed says that the destination does not get a relocation of a pack.
	movedFailed bool
	faults      map[string]bool // keys that are in report.Failed
	report      CopyReport
	progress    CopyProgress
}

// copyLists is the content of one side.
type copyLists struct {
	headers []headerRef
	backups []BackupRef
	index   []PackRef // ids and sizes of segments
	packs   []PackRef

	decisions, holds, moved []smallRef
}

// keyless is a vault of which only the names of objects are known.
func keyless(st obs.Store, vid string) *Vault {
	return &Vault{st: st, info: Info{ID: vid, Name: vid, Store: st.String()}, ledger: newLedger(), moves: newMovedCache()}
}

// in is the vault with the same keys in another store.
func (v *Vault) in(st obs.Store) *Vault {
	other := *v
	other.st, other.moves = st, newMovedCache()
	return &other
}

// Copy mirrors the write-once objects of a vault from one store to another: packs, index,
// decisions, holds, manifests and headers. Copy needs no key, may be repeated at any time, and then
// copies the missing objects.
//
// At each instant the destination is a vault in which every backup is whole, or no vault that
// opens: packs go before the manifests that name them, and the first header goes last. Writers,
// readers and collectors may be at work at the source. A pack that a manifest names is in a list of
// packs that begins after a list of manifests; and a manifest that is still listed after the packs
// were read kept its packs in the source until then. One copy at a time may work on a destination.
//
// The report is also valid after an error. Faults of single objects are in
// the report and are no error. ErrNoVault, ErrOtherVault, ErrSameStore,
// ErrCollected, ErrInUse, ErrEmptied, or an error of a store.
func Copy(ctx context.Context, from, to obs.Store, o CopyOptions) (CopyReport, error) {
	c := &copier{
		o: o, src: keyless(from, o.ID), dst: keyless(to, o.ID),
		failed: map[PackID]bool{}, gone: map[PackID]bool{}, leftOut: map[string]bool{}, faults: map[string]bool{},
		report: CopyReport{ID: o.ID, DryRun: o.DryRun},
	}
	switch {
	case !isVaultID(o.ID):
		return c.report, fmt.Errorf("copy: %q is no id of a vault: an id has 32 hex digits", o.ID)
	case o.Vault != nil:
		c.src, c.dst = o.Vault.in(from), o.Vault.in(to)
	case o.Instance != "" || o.DeleteExtra:
		return c.report, errors.New("copy: only the manifests say which packs a backup needs, and they open with the vault's key alone")
	}
	if o.DeleteExtra && o.Instance != "" {
		return c.report, errors.New("copy: the backups of other instances would count as extra, so nothing can be removed for one instance")
	}
	err := c.run(ctx)
	c.report.LeftOut = slices.Sorted(maps.Keys(c.leftOut))
	slices.SortFunc(c.report.Failed, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	return c.report, err
}

func (c *copier) run(ctx context.Context) (err error) {
	if err := c.list(ctx); err != nil {
		return err
	}
	if err := c.meet(ctx); err != nil {
		return err
	}
	if c.o.DryRun {
		return nil
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.leave(ctx)) }()
	if err := c.mark(ctx); err != nil {
		return err
	}
	for round := 1; ; round++ {
		if err := c.allBlobs(ctx); err != nil {
			return err
		}
		if err := c.notes(ctx); err != nil {
			return err
		}
		if err := c.manifests(ctx); err != nil {
			return err
		}
		packs, err := c.confirm(ctx)
		if err != nil {
			return err
		}
		backups, err := c.confirmBackups(ctx)
		if err != nil {
			return err
		}
		if packs+backups == 0 {
			break
		}
		if round == copyRounds {
			return fmt.Errorf("copy to %s: %d packs and %d manifests that were put are missing there again: "+
				"find the cause, such as a lifecycle rule that removes objects from the destination, and copy again", c.dst.st, packs, backups)
		}
	}
	if err := c.mine(ctx); err != nil {
		return err
	}
	if err := c.headers(ctx); err != nil {
		return err
	}
	if c.o.DeleteExtra {
		if err := c.removeExtra(ctx); err != nil {
			return err
		}
	}
	if c.o.Verify {
		return c.verify(ctx)
	}
	return nil
}

// list lists both sides. Of the source the manifests come first and the packs last,
// so that the packs of every manifest of the list are in the list of packs.
func (c *copier) list(ctx context.Context) (err error) {
	if c.from.headers, err = headersOf(ctx, c.src.st, c.o.ID); err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	if len(c.from.headers) == 0 {
		return fmt.Errorf("%w: %s in %s", ErrNoVault, c.o.ID, c.src.st)
	}
	if c.from.backups, err = c.src.Backups(ctx, c.o.Instance); err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	if err = c.listBlobs(ctx); err == nil {
		err = c.src.listNotes(ctx, &c.from, c.o.Instance)
	}
	if err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	if c.to, err = c.listDestination(ctx); err != nil {
		return err
	}
	c.count()
	return nil
}

// listDestination lists the destination, the packs last.
func (c *copier) listDestination(ctx context.Context) (l copyLists, err error) {
	if l.headers, err = headersOf(ctx, c.dst.st, c.o.ID); err == nil {
		if l.backups, err = c.dst.Backups(ctx, c.o.Instance); err == nil {
			if l.index, err = c.dst.segmentRefs(ctx); err == nil {
				if l.packs, err = c.dst.packRefs(ctx); err == nil {
					if l.moved, err = c.dst.listSmall(ctx, &movedKind, ""); err == nil {
						err = c.dst.listNotes(ctx, &l, c.o.Instance)
					}
				}
			}
		}
	}
	if err != nil {
		return l, fmt.Errorf("copy: destination: %w", err)
	}
	return l, nil
}

// count compares the lists for the report.
func (c *copier) count() {
	r := &c.report
	blobs := func(n *CopyCount, from, to []PackRef, known bool) {
		d := comparePackRefs(from, to)
		n.Source, n.Missing = len(from), len(d.missing)
		if known {
			n.Extra = len(d.extra)
		}
	}
	blobs(&r.Packs, c.from.packs, c.to.packs, c.o.Instance == "")
	blobs(&r.Index, c.from.index, c.to.index, c.o.Instance == "")
	r.Backups.Source = len(c.from.backups)
	r.Backups.Missing = len(backupsWithout(c.from.backups, backupSet(c.to.backups)))
	r.Backups.Extra = len(backupsWithout(c.to.backups, backupSet(c.from.backups)))
	r.Headers.Source = 1 // the header in force
	c.countNotes()
	newest := c.from.headers[len(c.from.headers)-1]
	if !slices.ContainsFunc(c.to.headers, func(h headerRef) bool { return h.key == newest.key }) {
		r.Headers.Missing = 1
	}
}

// namedOnly finds the packs that the backups of the instance name.
func (c *copier) namedOnly(ctx context.Context) error {
	if len(c.from.backups) == 0 {
		return fmt.Errorf("%w: instance %s has none in vault %s (%s)", ErrNoBackup, c.o.Instance, c.o.ID, c.src.st)
	}
	var readable []BackupRef
	var packs []PackRef
	for _, ref := range c.from.backups {
		m, err := c.src.Manifest(ctx, ref)
		switch {
		case errors.Is(err, ErrNoBackup):
			c.report.Gone++
			continue
		case ofObject(err):
			if err := c.file(c.src.manifestKey(ref.Instance, ref.ID), err); err != nil {
				return err
			}
			c.leftOut[backupName(ref)] = true
			continue
		case err != nil:
			return err
		}
		readable, packs = append(readable, ref), append(packs, m.Packs...)
	}
	c.from.backups = readable
	return c.needed(ctx, sortedRefs(packs))
}

// file adds a finding about an object. Its error ends the copy.
func (c *copier) file(object string, reason error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := reason.Error()
	if bad, ok := errors.AsType[*CorruptError](reason); ok {
		object, text = bad.Object, bad.Reason
	}
	if c.faults[object] {
		return nil
	}
	c.faults[object] = true
	c.report.Failed = append(c.report.Failed, Damage{Object: object, Reason: text})
	if len(c.report.Failed) >= maxCopyFailures {
		return fmt.Errorf("copy: %d objects can't be copied, the last one is %s: %s", maxCopyFailures, object, text)
	}
	return nil
}

// ofObject tells the errors that lie with one object and leave other objects as they are.
func ofObject(err error) bool {
	return err != nil && (secondlook.Damaged(err) || errors.Is(err, obs.ErrCold) || errors.Is(err, obs.ErrAccess))
}

func (c *copier) warn(err error) {
	if c.o.Warn != nil {
		c.o.Warn(err)
	}
}

// expect adds to the work that is to be done.
func (c *copier) expect(objects int, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Objects += objects
	c.progress.Bytes += bytes
}

// did tells that an object is done, copied or not.
func (c *copier) did(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.ObjectsDone++
	c.progress.BytesDone += uint64(size)
	if c.o.Progress != nil {
		c.o.Progress(c.progress)
	}
}
