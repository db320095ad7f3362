package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/vault/format"
)

// MaxPacks is how many packs a backup can name: an entry of the manifest's list
// has up to 23 bytes, which makes 46 MiB of the 64 MiB that a manifest may have.
const MaxPacks = 1 << 21

// ErrTooManyPacks says that a backup names more packs than a manifest can list.
var ErrTooManyPacks = fmt.Errorf("the backup needs more than the %d packs that a manifest can list: "+
	"make the volume smaller, or back up its parts as instances of their own", MaxPacks)

// LostPack is a pack that can't be used, and why.
type LostPack struct {
	ID     PackID
	Object string // its key in the store
	Reason string
	// Whole says that the pack's only fault is its lock, which ends
	// too early and can't be prolonged. Its content can be restored.
	Whole bool
}

func (p LostPack) String() string { return fmt.Sprintf("%s: %s", p.Object, p.Reason) }

// Lost describes a pack of which err, an ErrCorrupt, shows that it can't be used.
func (v *Vault) Lost(id PackID, err error) LostPack {
	p := LostPack{ID: id, Object: v.packKey(id), Reason: err.Error()}
	if ce, ok := errors.AsType[*CorruptError](err); ok {
		p.Reason = ce.Reason
	}
	return p
}

// MissingPacksError says that the index, or a catalogue, names packs
// that the store does not have, or has in a form that can't be used.
type MissingPacksError struct {
	Vault string // id
	Packs []LostPack
}

func (e *MissingPacksError) Error() string {
	if len(e.Packs) == 1 {
		return fmt.Sprintf("a pack can't be used: %s", e.Packs[0])
	}
	return fmt.Sprintf("%d packs of vault %s can't be used; the first is %s", len(e.Packs), e.Vault, e.Packs[0])
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *MissingPacksError) Is(target error) bool { return target == ErrCorrupt }

// NamedPacks are the packs that the recipes of one backup name. While names
// accumulate it looks whether the store has these packs, in goroutines of
// its own, which Refs or Stop waits for. One of these must be called.
type NamedPacks struct {
	w     *Writer
	looks *PackLooks
	later func(PackID) bool
	// direct is how many packs are looked at one by one before all
	// packs of the vault are listed instead.
	direct int

	ctx    context.Context // of the looks
	cancel context.CancelCauseFunc
	g      *contain.Group

	most   int // MaxPacks
	mu     sync.Mutex
	packs  map[PackID]namedPack
	queue  []PackID // to be looked at
	busy   bool     // a goroutine works on queue
	single int      // how many packs were looked at one by one
}

// namedPack holds the known facts about a pack besides the store's answer.
type namedPack struct {
	end  uint32 // where the last chunk that is named ends
	size uint32 // as the index has it; 0 where it does not list the pack
}

// NamePacks returns the NamedPacks of a backup that stores through w. later, unless it is nil,
// tells of which packs others have not finished the put yet: those are looked at in Refs.
func (w *Writer) NamePacks(ctx context.Context, later func(PackID) bool) *NamedPacks {
	if later == nil {
		later = func(PackID) bool { return false }
	}
	n := &NamedPacks{w: w, looks: w.opts.Looks, later: later, most: MaxPacks, packs: map[PackID]namedPack{}}
	stored := 0
	w.idx.Packs(func(PackRef) { stored++ })
	n.direct = prefixes + stored/listPage
	ctx, n.cancel = context.WithCancelCause(ctx)
	n.g, n.ctx = contain.WithContext(ctx)
	w.named = append(w.named, n)
	return n
}

// name notes that a recipe names a chunk that ends there in the pack.
func (n *NamedPacks) name(id PackID, end uint32) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, named := n.packs[id]
	p.end = max(p.end, end)
	n.packs[id] = p
	if named {
		return nil
	}
	if len(n.packs) > n.most {
		return ErrTooManyPacks
	}
	if n.w.Began(id) || n.later(id) {
		return nil
	}
	if _, known := n.looks.get(id); known {
		return nil
	}
	n.queue = append(n.queue, id)
	if !n.busy {
		n.busy = true
		n.g.Go(n.work)
	}
	return nil
}

// takeSizes notes the sizes that the index has of the packs that were named.
func (n *NamedPacks) takeSizes() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.w.idx.Packs(func(p PackRef) {
		if named, ok := n.packs[p.ID]; ok {
			named.size = uint32(p.Size)
			n.packs[p.ID] = named
		}
	})
}

// work looks at the packs of the queue until it is empty.
func (n *NamedPacks) work() error {
	for {
		n.mu.Lock()
		if len(n.queue) == 0 || n.ctx.Err() != nil {
			n.busy = false
			n.mu.Unlock()
			return nil
		}
		some := n.queue
		n.queue = nil
		n.mu.Unlock()
		if err := n.look(n.ctx, some); err != nil {
			return err
		}
	}
}

// look looks at packs: one by one while those are few, by a list of all packs
// when that takes fewer requests. A lock only a look at the pack itself tells.
func (n *NamedPacks) look(ctx context.Context, ids []PackID) error {
	locks := n.looks.v.st.Capabilities().Retain > 0
	n.looks.mu.Lock()
	listed := n.looks.listed
	n.looks.mu.Unlock()
	if !locks && !listed && n.single+len(ids) > n.direct {
		if err := n.looks.list(ctx); err != nil {
			return err
		}
	}
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, id := range ids {
		if _, known := n.looks.get(id); known {
			continue
		}
		n.single++
		g.Go(func() error {
			s, err := n.looks.stat(ctx, id)
			if err == nil {
				n.looks.note(id, s)
			}
			return err
		})
	}
	return g.Wait()
}

// Reused waits for the looks that are under way, and returns the packs that were named
// and found in the store, except the packs that w added. Nothing may be named any more.
func (n *NamedPacks) Reused() ([]PackRef, error) {
	if err := n.g.Wait(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var reused []PackRef
	for id := range n.packs {
		if s, known := n.looks.get(id); known && s.size > 0 && !n.w.Began(id) {
			reused = append(reused, PackRef{ID: id, Size: s.size})
		}
	}
	return reused, nil
}

// Refs returns the packs that were named, with their sizes. Nothing may be named any
// more, and w has finished. A pack that the store does not have, in the size that the
// index says or that the named chunks need, is in a *MissingPacksError, and so is one
// that can't be read or whose lock can't be prolonged: then no manifest may name it.
func (n *NamedPacks) Refs(ctx context.Context) ([]PackRef, error) {
	defer n.Stop()
	if err := n.g.Wait(); err != nil {
		return nil, err
	}
	ids := slices.SortedFunc(maps.Keys(n.packs), func(a, b PackID) int { return bytes.Compare(a[:], b[:]) })
	if err := n.look(ctx, ids); err != nil {
		return nil, err
	}
	if err := n.relock(ctx, ids); err != nil {
		return nil, err
	}
	refs := make([]PackRef, len(ids))
	var lost []LostPack
	for i, id := range ids {
		s, _ := n.looks.get(id)
		refs[i] = PackRef{ID: id, Size: s.size}
		named := n.packs[id]
		if want := int64(named.size); s.size > 0 && want > 0 && s.size != want {
			s = packSeen{reason: fmt.Sprintf("has %d bytes, the index says %d", s.size, want)}
		} else if least := int64(named.end) + int64(format.TableRoom(1)); s.size > 0 && s.size < least {
			s = packSeen{reason: fmt.Sprintf("has %d bytes, its chunks need at least %d", s.size, least)}
		}
		if s.size == 0 {
			lost = append(lost, LostPack{ID: id, Object: n.looks.v.packKey(id), Reason: s.reason, Whole: s.fit})
		}
	}
	if len(lost) > 0 {
		return nil, &MissingPacksError{Vault: n.looks.v.info.ID, Packs: lost}
	}
	return refs, nil
}

// relock prolongs locks that end before the lock of a manifest which is put now.
func (n *NamedPacks) relock(ctx context.Context, ids []PackID) error {
	retain := n.looks.v.st.Capabilities().Retain
	if retain == 0 {
		return nil
	}
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, id := range ids {
		s, known := n.looks.get(id)
		if !known || s.size == 0 {
			continue
		}
		g.Go(func() error {
			s, err := n.looks.prolong(ctx, id, s, retain, commitMargin(retain))
			if err == nil {
				n.looks.note(id, s)
			}
			return err
		})
	}
	return g.Wait()
}

// Stop ends the looks and waits for them. It is idempotent.
func (n *NamedPacks) Stop() {
	n.cancel(nil)
	_ = n.g.Wait() // nobody needs their findings
}
