package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/hostid"
)

// A prune deletes the manifests of forgotten backups and the packs that no manifest names, beside
// writers, readers and other prunes, by the protocol of FORMAT.md (Garbage). A prune reads
// manifests, and recipes only where it compacts. A prune that dies leaves at most announcements,
// condemnations, and relocations of packs that are still there, and the next prune begins anew.

// PruneOptions say how a vault is pruned.
type PruneOptions struct {
	Host     string          // as in SessionOptions
	Identity hostid.Identity // as in SessionOptions
	// Grace is how long a forgotten backup stays.
	Grace time.Duration
	// Wait is how long the prune waits for backups and readers, in all waits together, before
	// the prune gives up; 0 waits without an end.
	Wait time.Duration
	// Poll is the time between two looks of a wait; 0 is 2 s.
	Poll time.Duration
	// DryRun only counts the objects to delete. A dry run writes nothing and waits for nobody,
	// so packs of backups under way count as garbage.
	DryRun bool
	// MaxGarbage is the percentage of all bytes that may be garbage:
	// as long as there is not more garbage, no pack is deleted.
	MaxGarbage float64
	// Sparse is the percentage up to which a pack is sparse: when backups need
	// no more of its bytes, the prune moves the needed chunks into new packs and
	// deletes the pack. 0 moves nothing, and then the prune reads no recipe.
	Sparse float64
	// ProlongLocks prolongs the lock of each pack that ends before the lock of a
	// manifest which names the pack. In a store without object lock it does nothing.
	ProlongLocks bool
	// MaxRewrite bounds the bytes that the prune stores in new packs; 0 is no bound.
	MaxRewrite int64
	// IndexDir is as in WriterOptions.
	IndexDir string
	// Warn is told of faults that do not end the prune. Nil is allowed.
	Warn func(error)
	// Waits is told the sessions that the prune waits for, each time that these change. Nil is
	// allowed.
	Waits func([]SessionInfo)
	// Progress is told after each step and each batch of deletes. Nil is allowed.
	Progress func(PruneReport)
	// Now is the wall clock, by which grace and holds end; nil: time.Now.
	Now func() time.Time
}

// PruneReport counts the objects that a prune found and deleted so far.
type PruneReport struct {
	Step         string `json:"step"`           // that the prune is at, in words
	Backups      int    `json:"backups"`        // that the vault has, forgotten backups too
	Cached       int    `json:"cached_backups"` // of these, as an earlier prune of this host has noted their packs
	Packs        int    `json:"packs"`
	Bytes        int64  `json:"bytes"` // of all packs
	Due          int    `json:"due"`   // forgotten backups whose grace is over
	Forgotten    int    `json:"forgotten_backups_deleted"`
	Garbage      int    `json:"garbage_packs"`
	GarbageBytes int64  `json:"garbage_bytes"`
	// Deleted packs, and their bytes.
	Deleted      int   `json:"deleted_packs"`
	DeletedBytes int64 `json:"deleted_bytes"`
	// Sparse packs that were found, and the bytes in them that no backup needs,
	// at least. With a dry run these are the packs that would be rewritten.
	Sparse      int   `json:"sparse_packs"`
	SparseBytes int64 `json:"sparse_bytes"`
	// Moved is how many of these packs were rewritten and deleted, and MovedBytes are the bytes of
	// the new packs. Deleted and DeletedBytes count the old packs too.
	Moved      int   `json:"moved_packs"`
	MovedBytes int64 `json:"moved_bytes"`
	// Locked is how many objects stay because the store locks them still.
	Locked int `json:"locked"`
	// Prolonged is how many packs got a longer lock, or with a dry run have too short a lock, and
	// Unprotected how many the store left with a lock that ends before the lock of a backup.
	Prolonged   int `json:"locks_prolonged"`
	Unprotected int `json:"locks_refused"`
	// Refused are packs that the store did not delete.
	// They stay condemned: no backup uses them.
	Refused []string `json:"refused"`
	// Kept tells of forgotten backups that stay, and why, by instance/id.
	Kept map[string]string `json:"kept"`
	// Unlisted are packs that manifests name and that the store does not have, 256 at most.
	Unlisted []string `json:"missing_packs"`
}

// WaitsError says that a prune gave up because backups or readers were at work for too long.
type WaitsError struct{ For []SessionInfo }

func (e *WaitsError) Error() string {
	var all []string
	for i, s := range e.For {
		if i == 5 {
			all = append(all, fmt.Sprintf("%d more", len(e.For)-i))
			break
		}
		all = append(all, describeSession(s))
	}
	return "the prune gave up, after it had waited too long for " + strings.Join(all, "; ")
}

// Prune deletes forgotten backups whose grace is over, and the packs that no manifest
// names. *WaitsError where the prune gave up: unless the prune has deleted packs,
// nothing is condemned any more. ErrClock where backups are due and the clocks differ.
func (v *Vault) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Poll <= 0 {
		o.Poll = 2 * time.Second
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	p := newPrune(v, o)
	if o.DryRun {
		return p.report, p.dry(ctx)
	}
	err := p.run(ctx)
	return p.report, err
}

func newPrune(v *Vault, o PruneOptions) *prune {
	return &prune{
		v: v, o: o, read: map[string]bool{}, dead: map[PackID]bool{}, moves: newMoves(),
		report: PruneReport{Refused: []string{}, Unlisted: []string{}, Kept: map[string]string{}},
	}
}

// run does all steps, and waits between the looks of a step that waits.
func (p *prune) run(ctx context.Context) error {
	var waited time.Duration
	for !p.over() {
		again, err := p.next(ctx)
		if err == nil && again {
			if p.o.Wait > 0 && waited >= p.o.Wait {
				err = &WaitsError{For: p.waits}
			} else {
				waited += p.o.Poll
				err = pause(ctx, p.o.Poll)
			}
		}
		if err != nil {
			return errors.Join(err, p.giveUp(ctx, err))
		}
		if p.o.Progress != nil {
			p.o.Progress(p.report)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dry counts without a session: the counts are right for the moment of the look.
func (p *prune) dry(ctx context.Context) error {
	due, err := p.due(ctx)
	if err != nil {
		return err
	}
	if p.packs, err = p.v.listPackSet(ctx); err != nil {
		return err
	}
	without := map[string]bool{}
	for _, m := range due {
		without[fullName(m.Backup)] = true
	}
	p.report.Forgotten = len(due)
	if err := p.readMoves(ctx); err != nil {
		return err
	}
	if err := p.nameAll(ctx, without); err != nil {
		return err
	}
	if err := p.count(ctx); err != nil {
		return err
	}
	p.without = without
	if _, err := p.prolongLocks(ctx); err != nil {
		return err
	}
	_, err = p.findSparse(ctx)
	return err
}
