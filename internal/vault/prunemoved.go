package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/obs"
)

// This file is the knowledge of a prune about relocations (moved.go). While a manifest names a
// moved pack, the packs into which its chunks were moved count as named, and the relocation and
// the condemnation of the pack stay. When no manifest names the pack any more, its relocations go.

// moves is what the relocations of a vault say.
type moves struct {
	read map[string]PackID     // relocations that were read, by their names, and the moved packs
	to   map[PackID][][]PackID // of each moved pack the new packs, one list for each relocation
	// named are the moved packs that a manifest names, or from which chunks of another named pack
	// were moved on.
	named map[PackID]bool
	// over are the relocations, by their names, of packs that no manifest named. They go unless a
	// manifest names the pack at the second reading.
	over  map[string]PackID
	known map[PackID]bool // the moved packs of the relocations of the first reading
	cache *movedCache     // of the relocations that were read; other readers of the vault have their own
}

func newMoves() moves {
	return moves{
		read: map[string]PackID{}, to: map[PackID][][]PackID{}, named: map[PackID]bool{},
		over: map[string]PackID{}, known: map[PackID]bool{}, cache: newMovedCache(),
	}
}

// readMoves reads the relocations that were not read yet. A relocation that does not open ends the
// prune: nobody knows which packs it needs. The relocations have to be read before the manifests:
// after a relocation of a pack was put, no backup is made that names the pack.
func (p *prune) readMoves(ctx context.Context) error {
	var bad error
	p.moves.cache = newMovedCache()
	unread := func(name string) bool { _, read := p.moves.read[name]; return !read }
	err := p.v.readMoved(ctx, "", unread, func(r *relocation) {
		p.moves.read[r.name] = r.pack
		p.moves.to[r.pack] = append(p.moves.to[r.pack], r.to())
	}, func(_ string, err error) { bad = errors.Join(bad, err) })
	return errors.Join(err, bad)
}

// name notes that a manifest names a pack, and takes the pack out of the set. Of a moved pack the
// new packs count as named too. false says that neither the list nor a relocation has the pack.
func (p *prune) name(id PackID) (known bool) {
	i, listed := p.packs.find(id)
	if listed {
		p.packs.drop(i)
		p.packs.setNamed(i)
	}
	all, moved := p.moves.to[id]
	if !moved || p.moves.named[id] {
		return listed || moved
	}
	p.moves.named[id] = true
	for _, to := range all {
		for _, next := range to {
			p.name(next)
		}
	}
	return true
}

// nameMovedSince names the new packs of relocations that came since the first reading of the
// manifests. Of a moved pack that the list does not have, nobody knows any more whether a manifest
// names the pack, so the pack counts as named.
func (p *prune) nameMovedSince() {
	before := p.moves.named
	p.moves.named = map[PackID]bool{}
	for id := range p.moves.to {
		i, listed := p.packs.find(id)
		if before[id] || listed && p.packs.isNamed(i) || !listed && !p.moves.known[id] {
			p.name(id)
		}
	}
}

// findOver finds the relocations of packs that no manifest names.
func (p *prune) findOver() {
	for name, pack := range p.moves.read {
		if p.moves.known[pack] = true; !p.moves.named[pack] {
			p.moves.over[name] = pack
		}
	}
}

// stillOver leaves those relocations in moves.over of which still no manifest names the pack.
func (p *prune) stillOver() {
	maps.DeleteFunc(p.moves.over, func(_ string, pack PackID) bool { return p.moves.named[pack] })
}

// removeOver removes the relocations of packs that no manifest names.
func (p *prune) removeOver(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(p.moves.over))
	for some := range slices.Chunk(names, deletedAtOnce) {
		keys := make([]string, len(some))
		for i, name := range some {
			keys[i] = p.v.movedPrefix() + name
		}
		locked, err := p.v.lockedUntil(ctx, keys, p.o.Now())
		if err != nil {
			return err
		}
		p.report.Locked += len(locked)
		keys = slices.DeleteFunc(keys, func(key string) bool { _, is := locked[key]; return is })
		if err := p.v.st.Delete(ctx, keys...); errors.Is(err, obs.ErrAccess) {
			p.o.Warn(fmt.Errorf("relocations of packs that no backup names stay: %w", err))
			continue
		} else if err != nil {
			return fmt.Errorf("delete relocations of packs: %w", err)
		}
		for _, name := range some {
			if _, is := locked[p.v.movedPrefix()+name]; !is {
				delete(p.moves.to, p.moves.read[name])
			}
		}
	}
	return nil
}

// lost tells whether the chunks of a pack can't be read: the list
// lacks the pack, and of each of its relocations a new pack.
func (p *prune) lost(id PackID, moves int) bool {
	if _, listed := p.packs.find(id); listed || moves == maxMoves {
		return !listed
	}
	return !slices.ContainsFunc(p.moves.to[id], func(to []PackID) bool {
		return !slices.ContainsFunc(to, func(next PackID) bool { return p.lost(next, moves+1) })
	})
}
