package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/obs"
)

const (
	// condemnedAtOnce is how many packs one condemnation of a prune names: 64 KiB.
	condemnedAtOnce = 1 << 12
	// deletedAtOnce is how many objects one request of a store deletes.
	deletedAtOnce = 1000
	// maxUnlisted bounds the looks at packs that manifests name and that the list did not have.
	maxUnlisted = 256
)

// prune is one run of a prune, for one goroutine.
type prune struct {
	v *Vault
	o PruneOptions
	s *Session

	at       int                 // step
	packs    *packSet            // in the set: the packs to delete
	waits    []SessionInfo       // sessions that the step waits for
	seen     seenSessions        // the sessions that were read
	going    *announcement       // of the backups that this run deletes
	read     map[string]bool     // manifests whose packs are known, instance/id
	known    []PackID            // the packs in the file that the host keeps of manifests
	cache    *cacheWriter        // of that file; nil after the first reading of the manifests
	without  map[string]bool     // manifests that a dry run leaves out, since the run would delete them
	unlisted map[PackID]bool     // packs that a manifest names and that the list did not have
	own      map[string][]PackID // condemnations of this run
	others   map[string][]PackID // condemnations of other prunes, as read before the deletes
	dead     map[PackID]bool     // condemned packs of which a segment of the index has rows
	stay     map[PackID]bool     // packs that the store refused to delete
	moves    moves               // the knowledge about relocations
	sparse   *sparse             // the packs whose living chunks this run moves; nil: none
	deleting bool                // a delete of a pack, or a relocation, may have been sent
	report   PruneReport
}

// pruneStep is a step; again says that the step has to be done once more.
type pruneStep struct {
	what string
	do   func(*prune, context.Context) (again bool, err error)
}

// pruneSteps are the steps of FORMAT.md, in order.
var pruneSteps = []pruneStep{
	{"begins", (*prune).begin},
	{"announces the backups to delete", (*prune).announce},
	{"lists the packs", (*prune).listPacks},
	{"lists the sessions", (*prune).seeWriters},
	{"waits for backups", (*prune).wait},
	{"deletes forgotten backups", (*prune).deleteForgotten},
	{"reads the manifests", (*prune).readManifests},
	{"compares locks", (*prune).prolongLocks},
	{"looks for sparse packs", (*prune).findSparse},
	{"condemns packs", (*prune).condemn},
	{"lists the sessions", (*prune).seeWritersOfCondemned},
	{"waits for backups", (*prune).wait},
	{"reads new manifests", (*prune).readAgain},
	{"reads which chunks of sparse packs are needed", (*prune).readNeeds},
	{"lists the sessions of readers", (*prune).seeReaders},
	{"waits for readers", (*prune).wait},
	{"moves chunks out of sparse packs", (*prune).compact},
	{"tidies the index", (*prune).dropRows},
	{"deletes packs", (*prune).deletePacks},
	{"looks for condemnations without packs", (*prune).findEmpty},
	{"lists the sessions", (*prune).seeWritersOfGone},
	{"waits for backups", (*prune).wait},
	{"ends", (*prune).end},
}

func (p *prune) over() bool { return p.at >= len(pruneSteps) }

// next does the next step, or looks once more in a step that waits.
func (p *prune) next(ctx context.Context) (again bool, err error) {
	p.report.Step = pruneSteps[p.at].what
	again, err = pruneSteps[p.at].do(p, ctx)
	if err == nil && !again {
		p.at++
	}
	return again, err
}

func (p *prune) options() SessionOptions {
	return SessionOptions{Host: p.o.Host, Identity: p.o.Identity, Warn: p.o.Warn}
}

func (p *prune) begin(ctx context.Context) (bool, error) {
	me := observe(p.options())
	s, err := p.v.putSession(ctx, kindCollector, p.options(), me.process)
	if err != nil {
		return false, err
	}
	p.s = s
	if err := p.v.removeEnded(ctx, me); err != nil {
		p.o.Warn(err)
	}
	if err := p.v.sweepSessions(ctx); err != nil {
		p.o.Warn(err)
	}
	now, err := s.storeTime(ctx)
	if err != nil {
		return false, err
	}
	return false, p.v.removeDamaged(ctx, now, &p.seen, p.o.Warn)
}

func (p *prune) listPacks(ctx context.Context) (bool, error) {
	var err error
	p.packs, err = p.v.listPackSet(ctx)
	return false, err
}

// seeWriters lists the sessions of writers, which this prune waits for.
func (p *prune) seeWriters(ctx context.Context) (bool, error) {
	return false, p.see(ctx, func(s SessionInfo) bool { return s.writes() })
}

// seeWritersOfCondemned is seeWriters where this run condemned anything, or is about to remove
// relocations.
func (p *prune) seeWritersOfCondemned(ctx context.Context) (bool, error) {
	if len(p.own)+len(p.moves.over) == 0 {
		return false, nil
	}
	return p.seeWriters(ctx)
}

// seeWritersOfGone is seeWriters where a condemnation is to end.
func (p *prune) seeWritersOfGone(ctx context.Context) (bool, error) {
	if len(p.own)+len(p.others) == 0 {
		return false, nil
	}
	return p.seeWriters(ctx)
}

// seeReaders lists the sessions of readers that may read a backup whose manifest is gone.
func (p *prune) seeReaders(ctx context.Context) (bool, error) {
	return false, p.see(ctx, func(s SessionInfo) bool { return s.mayRead() && !p.read[s.Instance] })
}

// see reads the sessions. A session that does not open may be the session of a writer or reader.
func (p *prune) see(ctx context.Context, wanted func(SessionInfo) bool) error {
	all, err := p.v.sessionsSeen(ctx, &p.seen)
	if err != nil {
		return err
	}
	p.waits = slices.DeleteFunc(all, func(s SessionInfo) bool { return !wanted(s) })
	p.tellWaits()
	return nil
}

func (p *prune) tellWaits() {
	if p.o.Waits != nil && len(p.waits) > 0 {
		p.o.Waits(slices.Clone(p.waits))
	}
}

// wait looks whether the sessions that were seen are gone.
func (p *prune) wait(ctx context.Context) (bool, error) {
	if len(p.waits) == 0 {
		return false, nil
	}
	there := map[string]bool{}
	stand, _, err := p.v.listSessions(ctx, "")
	if err != nil {
		return false, err
	}
	for _, info := range stand {
		there[p.v.sessionOf(info)] = true
	}
	n := len(p.waits)
	p.waits = slices.DeleteFunc(p.waits, func(s SessionInfo) bool { return !there[s.ID] })
	if len(p.waits) != n {
		p.tellWaits()
	}
	return len(p.waits) > 0, nil
}

// readManifests takes the packs that manifests name out of the set. No manifest names a pack that
// stays in the set.
func (p *prune) readManifests(ctx context.Context) (bool, error) {
	if err := p.readMoves(ctx); err != nil {
		return false, err
	}
	if err := p.nameAll(ctx, nil); err != nil {
		return false, err
	}
	p.findOver()
	if err := p.count(ctx); err != nil {
		return false, err
	}
	return false, p.spareLocked(ctx)
}

// readAgain takes the packs out of the set that manifests name which came since. A manifest that
// was read before names none of the set.
func (p *prune) readAgain(ctx context.Context) (bool, error) {
	if err := p.readMoves(ctx); err != nil {
		return false, err
	}
	if err := p.nameAll(ctx, nil); err != nil {
		return false, err
	}
	p.nameMovedSince()
	p.stillOver()
	return false, nil
}

// nameAll reads the manifests that were not read yet and are not in
// without, and takes the packs that they name out of the set. A manifest
// that does not open is an error: nobody knows which packs it names.
func (p *prune) nameAll(ctx context.Context, without map[string]bool) (err error) {
	refs, err := p.v.Backups(ctx, "")
	if err != nil {
		return err
	}
	p.report.Backups = len(refs)
	if p.known == nil {
		p.nameCached(slices.DeleteFunc(slices.Clone(refs), func(r BackupRef) bool { return without[fullName(r)] }))
		defer func() {
			p.cache.end(err == nil)
			p.cache = nil
		}()
	}
	there := make(map[string]bool, len(refs))
	var unread []BackupRef
	for _, ref := range refs {
		name := fullName(ref)
		there[name] = true
		if !p.read[name] && !without[name] {
			unread = append(unread, ref)
		}
	}
	err = p.v.eachManifest(ctx, unread, func(ref BackupRef, m *Manifest) {
		p.read[fullName(ref)] = true
		p.cache.manifest(fullName(ref), ref.Size, p.known, m.Packs)
		for _, pack := range m.Packs {
			if !p.name(pack.ID) && len(p.unlisted) < maxUnlisted {
				if p.unlisted == nil {
					p.unlisted = map[PackID]bool{}
				}
				p.unlisted[pack.ID] = true
			}
		}
	})
	if err != nil {
		return err
	}
	for name := range p.read { // a reader of a backup that is gone by now has to be waited for
		if !there[name] {
			delete(p.read, name)
		}
	}
	return nil
}

// count sums up the set, and looks at packs that manifests name and
// that the list did not have: they came later, or they are lost.
func (p *prune) count(ctx context.Context) error {
	r := &p.report
	r.Garbage, r.GarbageBytes = p.packs.sum()
	r.Packs, r.Bytes = len(p.packs.ids), 0
	for _, n := range p.packs.sizes {
		r.Bytes += int64(n)
	}
	for id := range p.moves.named {
		if p.lost(id, 0) {
			r.Unlisted = append(r.Unlisted, p.v.packKey(id))
		}
	}
	for id := range p.unlisted {
		_, err := p.v.st.Stat(ctx, p.v.packKey(id))
		if errors.Is(err, obs.ErrNotFound) {
			r.Unlisted = append(r.Unlisted, p.v.packKey(id))
		} else if err != nil {
			return fmt.Errorf("look at pack %s: %w", id, err)
		}
	}
	slices.Sort(r.Unlisted)
	if float64(r.GarbageBytes) <= float64(r.Bytes)*p.o.MaxGarbage/100 {
		clear(p.packs.in)
	}
	return nil
}

// spareLocked takes the packs out of the set that the store locks still: deleting them would be
// refused, and a condemnation would only keep backups from using them.
func (p *prune) spareLocked(ctx context.Context) error {
	var keys []string
	p.packs.each(func(i int) bool { keys = append(keys, p.v.packKey(p.packs.ids[i])); return true })
	locked, err := p.v.lockedUntil(ctx, keys, p.o.Now())
	if err != nil {
		return err
	}
	p.packs.each(func(i int) bool {
		if _, ok := locked[p.v.packKey(p.packs.ids[i])]; ok {
			p.packs.drop(i)
			p.report.Locked++
		}
		return true
	})
	return nil
}
