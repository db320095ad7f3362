package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/obs"
)

// condemn tells all writers which packs are about to be deleted. Sparse packs have condemnations of
// their own, which stay as long as a manifest names one of these packs.
func (p *prune) condemn(ctx context.Context) (bool, error) {
	p.own = map[string][]PackID{}
	var all []PackID
	p.packs.each(func(i int) bool { all = append(all, p.packs.ids[i]); return true })
	for _, packs := range [][]PackID{all, p.sparse.packs(p.packs)} {
		for some := range slices.Chunk(packs, condemnedAtOnce) {
			id := randomName()
			object, err := p.v.sealSmall("condemned", condemnedMagic, id, &condemned{Session: p.s.id, Packs: some})
			if err != nil {
				return false, err
			}
			p.own[id] = some // also when the put is in doubt: giving up deletes the object
			if err := p.v.st.Put(ctx, p.v.condemnedPrefix()+id, object); err != nil {
				return false, fmt.Errorf("store condemnation: %w", err)
			}
		}
	}
	return false, nil
}

// dropRows takes condemned packs out of the index, in the segments of which they are more than a
// fifth, and notes the condemned packs of which rows are left: the condemnation of these packs has
// to stay, or backups would find packs that are gone, and be made twice. No backup rests on the
// index, so errors of the index are warnings.
func (p *prune) dropRows(ctx context.Context) (bool, error) {
	var err error
	if p.others, err = p.v.condemnations(ctx); err != nil {
		return false, err
	}
	for id := range p.own {
		delete(p.others, id)
	}
	if len(p.own)+len(p.others) == 0 {
		return false, nil
	}
	going := map[PackID]bool{}
	for _, packs := range p.others {
		for _, id := range packs {
			going[id] = true
		}
	}
	for _, packs := range p.own {
		for _, id := range packs {
			going[id] = going[id] || p.packs.contains(id) || p.sparse.moved(id)
		}
	}
	is := func(id PackID) bool { return going[id] }
	set, err := p.v.index().OpenSet(ctx, p.o.IndexDir, p.o.Warn)
	if err == nil {
		err = set.Drop(ctx, is, p.dead)
		set.Close()
	}
	if err != nil {
		if ctx.Err() != nil {
			return false, err
		}
		p.o.Warn(fmt.Errorf("index of the vault: %w; a backup that finds packs there which are gone is made twice", err))
	}
	return false, nil
}

// deletePacks deletes the packs of the set, and the relocations of packs that no manifest names.
func (p *prune) deletePacks(ctx context.Context) (bool, error) {
	p.deleting = true
	if err := p.removeOver(ctx); err != nil {
		return false, err
	}
	for {
		var some []int
		p.packs.each(func(i int) bool { some = append(some, i); return len(some) < deletedAtOnce })
		if len(some) == 0 {
			return false, nil
		}
		if err := p.deleteSome(ctx, some); err != nil {
			return false, err
		}
		if p.o.Progress != nil {
			p.o.Progress(p.report)
		}
	}
}

// deleteSome deletes the packs at the places some. When the store refuses the request, deleteSome
// sends a request for each pack.
func (p *prune) deleteSome(ctx context.Context, some []int) error {
	keys := make([]string, len(some))
	for n, i := range some {
		keys[n] = p.v.packKey(p.packs.ids[i])
	}
	err := p.v.st.Delete(ctx, keys...)
	if err != nil && !errors.Is(err, obs.ErrAccess) {
		return fmt.Errorf("delete packs: %w", err)
	}
	for n, i := range some {
		if err != nil {
			if one := p.v.st.Delete(ctx, keys[n]); errors.Is(one, obs.ErrAccess) {
				if p.stay == nil {
					p.stay = map[PackID]bool{}
				}
				p.stay[p.packs.ids[i]] = true
				p.report.Refused = append(p.report.Refused, keys[n])
				p.packs.drop(i)
				continue
			} else if one != nil {
				return fmt.Errorf("delete packs: %w", one)
			}
		}
		p.packs.drop(i)
		p.report.Deleted++
		p.report.DeletedBytes += int64(p.packs.sizes[i])
	}
	return nil
}

// findEmpty leaves only those condemnations in p.others that nothing needs any more: neither the
// store nor the index has a pack of them, and no pack of them was moved.
func (p *prune) findEmpty(ctx context.Context) (bool, error) {
	needed := map[PackID]bool{}
	for _, packs := range p.others {
		for _, id := range packs {
			needed[id] = p.dead[id] || len(p.moves.to[id]) > 0
		}
	}
	if len(needed) == 0 {
		return false, nil
	}
	err := p.v.listPacks(ctx, "", func(id PackID, _ obs.Info) {
		if _, ok := needed[id]; ok {
			needed[id] = true
		}
	})
	if err != nil {
		return false, err
	}
	for id, packs := range p.others {
		if slices.ContainsFunc(packs, func(pack PackID) bool { return needed[pack] }) {
			delete(p.others, id)
		}
	}
	return false, nil
}

// end takes away the condemnations of packs that are gone: all writers have ended that could find
// such a pack without a look at the condemnation.
func (p *prune) end(ctx context.Context) (bool, error) {
	var keys []string
	for id, packs := range p.own {
		if !slices.ContainsFunc(packs, func(pack PackID) bool { return p.stay[pack] || p.dead[pack] || len(p.moves.to[pack]) > 0 }) {
			keys = append(keys, p.v.condemnedPrefix()+id)
		}
	}
	for id := range p.others {
		keys = append(keys, p.v.condemnedPrefix()+id)
	}
	slices.Sort(keys)
	if err := p.v.st.Delete(ctx, keys...); err != nil {
		return false, fmt.Errorf("end condemnations: %w", err)
	}
	return false, p.s.End(ctx)
}

// giveUp ends the announcements of this run. As long as the run has sent no delete of a pack,
// giveUp takes the condemnations away too; later they stay, and the next prune condemns the same
// packs.
func (p *prune) giveUp(ctx context.Context, failed error) error {
	if p.s == nil {
		return nil
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	var keys []string
	if !p.deleting {
		for id := range p.own {
			keys = append(keys, p.v.condemnedPrefix()+id)
		}
	}
	slices.Sort(keys)
	var err error
	if len(keys) > 0 {
		if derr := p.v.st.Delete(within, keys...); derr != nil {
			err = fmt.Errorf("take the condemnations of the prune back: %w", derr)
		}
	}
	return errors.Join(err, p.going.finish(within, failed), p.s.End(within))
}

// condemnations returns the packs of all condemnations by their names.
func (v *Vault) condemnations(ctx context.Context) (map[string][]PackID, error) {
	all := map[string][]PackID{}
	err := v.eachCondemnation(ctx, func(id string, c condemned) { all[id] = c.Packs })
	return all, err
}
