package vault

import (
	"context"
	"math/bits"
	"slices"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// packSet has the packs that a list of the store gave, sorted, and a set of some
// of them. A packSet takes 20 bytes and two bits for each pack: 3 million packs,
// which hold 50 TB, take 61 MB. A packSet is for one goroutine at a time.
type packSet struct {
	ids   []PackID
	sizes []uint32 // bytes; a pack has at most 1 GiB
	in    []uint64 // bits: which of ids are in the set
	named []uint64 // bits: which of ids a manifest names; only a prune sets them
}

// listPackSet lists all packs of the vault, and puts all into the set.
func (v *Vault) listPackSet(ctx context.Context) (*packSet, error) {
	var folders [prefixes]packSet
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for i := range prefixes {
		g.Go(func() error {
			f := &folders[i]
			return v.listPacks(gctx, packFolder(i), func(id PackID, info obs.Info) {
				f.ids = append(f.ids, id)
				f.sizes = append(f.sizes, uint32(min(info.Size, format.MaxPack)))
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	n := 0
	for i := range folders {
		n += len(folders[i].ids)
	}
	p := &packSet{ids: make([]PackID, 0, n), sizes: make([]uint32, 0, n), in: make([]uint64, (n+63)/64), named: make([]uint64, (n+63)/64)}
	for i := range folders { // in order: the folder is the first byte of the id
		p.ids, p.sizes = append(p.ids, folders[i].ids...), append(p.sizes, folders[i].sizes...)
		folders[i] = packSet{}
	}
	for i := range p.ids {
		p.put(i)
	}
	return p, nil
}

func (p *packSet) put(i int) { p.in[i/64] |= 1 << (i % 64) }

func (p *packSet) has(i int) bool { return p.in[i/64]&(1<<(i%64)) != 0 }

func (p *packSet) drop(i int) { p.in[i/64] &^= 1 << (i % 64) }

func (p *packSet) setNamed(i int) { p.named[i/64] |= 1 << (i % 64) }

func (p *packSet) isNamed(i int) bool { return p.named[i/64]&(1<<(i%64)) != 0 }

// find returns the place of a pack; false where the list did not have it.
func (p *packSet) find(id PackID) (int, bool) {
	return slices.BinarySearchFunc(p.ids, id, comparePacks)
}

// contains tells whether a pack is in the set.
func (p *packSet) contains(id PackID) bool {
	i, ok := p.find(id)
	return ok && p.has(i)
}

// sum is how many packs are in the set, and their bytes.
func (p *packSet) sum() (n int, bytes int64) {
	for i, word := range p.in {
		n += bits.OnesCount64(word)
		for ; word != 0; word &= word - 1 {
			bytes += int64(p.sizes[64*i+bits.TrailingZeros64(word)])
		}
	}
	return n, bytes
}

// each calls f with the places of the packs in the set, in order, until f returns false.
func (p *packSet) each(f func(i int) bool) {
	for i, word := range p.in {
		for ; word != 0; word &= word - 1 {
			if !f(64*i + bits.TrailingZeros64(word)) {
				return
			}
		}
	}
}
