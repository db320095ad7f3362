package vault

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"holdfast/internal/obs"
)

// A prune that compacts reads the recipes of all backups, to find out which chunks of which packs
// they need. A page or list that several backups have in common is read once.

// recipeWalk reads recipes. It is for one goroutine.
type recipeWalk struct {
	p    *prune
	mark func(at int, off, n uint32) // a needed chunk, in the pack at that place of the list
	seen map[chunkPlace]struct{}     // lists and pages whose chunks are marked
}

// chunkPlace names a chunk.
type chunkPlace struct {
	pack PackID
	off  uint32
}

// maxSeen bounds recipeWalk.seen. Further pages are read again in each backup.
const maxSeen = 1 << 20

func (w *recipeWalk) note(r PageRef) {
	if len(w.seen) < maxSeen {
		w.seen[chunkPlace{r.Pack, r.Off}] = struct{}{}
	}
}

func (w *recipeWalk) unseen(refs []PageRef) []PageRef {
	return slices.DeleteFunc(slices.Clone(refs), func(r PageRef) bool {
		_, seen := w.seen[chunkPlace{r.Pack, r.Off}]
		return seen
	})
}

// livePage is a page of which only the references are decoded.
type livePage struct {
	_      struct{} `cbor:",toarray"`
	Packs  []PackID
	Chunks []pageChunk
	Items  cbor.RawMessage
}

// backup marks all chunks that a backup needs: its content, its recipes and its stat pages.
func (w *recipeWalk) backup(ctx context.Context, m *Manifest) error {
	for i := range m.Volumes {
		vol := &m.Volumes[i]
		if err := w.chunks(ctx, slices.Concat(vol.Lists, vol.Stats)); err != nil {
			return err
		}
		lists := w.unseen(vol.Lists)
		err := w.p.v.readPages(ctx, lists, func(decoded [][]PageRef) ([]PageRef, error) {
			pages := slices.Concat(decoded...)
			return w.unseen(pages), w.chunks(ctx, pages)
		}, func(_ int, ref PageRef, plain []byte) error { return w.page(ctx, ref, plain) })
		if err == nil {
			err = w.p.v.readMeta(ctx, w.unseen(vol.Stats), func(_ int, ref PageRef, plain []byte) error {
				var list pageList
				if err := decMode.Unmarshal(plain, &list); err != nil {
					return w.p.v.badMeta(ref, pageError(err))
				}
				return w.chunks(ctx, list.Pages)
			})
		}
		if err != nil {
			return err
		}
		for _, r := range slices.Concat(vol.Lists, vol.Stats) {
			w.note(r)
		}
	}
	return nil
}

// page marks the chunks of a page.
func (w *recipeWalk) page(ctx context.Context, ref PageRef, plain []byte) error {
	var page livePage
	if err := decMode.Unmarshal(plain, &page); err != nil {
		return w.p.v.badMeta(ref, pageError(err))
	}
	for _, c := range page.Chunks {
		if int64(c.Pack) >= int64(len(page.Packs)) {
			return w.p.v.badMeta(ref, errors.New("page names a pack that it does not list"))
		}
		if err := w.chunk(ctx, page.Packs[c.Pack], c.Off, c.Len, 0); err != nil {
			return err
		}
	}
	w.note(ref)
	return nil
}

func (w *recipeWalk) chunks(ctx context.Context, refs []PageRef) error {
	for _, r := range refs {
		if err := w.chunk(ctx, r.Pack, r.Off, r.Len, 0); err != nil {
			return err
		}
	}
	return nil
}

// chunk marks a chunk that a recipe names: in the pack, where the list has the pack, and in each
// pack into which a relocation says that the chunk was moved.
func (w *recipeWalk) chunk(ctx context.Context, id PackID, off, n uint32, moves int) error {
	if at, listed := w.p.packs.find(id); listed {
		w.mark(at, off, n)
	}
	if len(w.p.moves.to[id]) == 0 || moves == maxMoves {
		return nil
	}
	all, err := w.p.v.cachedRelocations(ctx, w.p.moves.cache, id)
	if err != nil {
		return err
	}
	for _, r := range all {
		if c, has := r.find(off); has {
			if err := w.chunk(ctx, c.pack, c.to, c.sealed, moves+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// walkBackups reads the recipes of the backups that are wanted. whole is told the places of
// all packs of a backup whose recipe can't be read: nobody knows which of their chunks the
// backup needs. walkBackups returns the backups, instance/id, whose manifests were there.
func (p *prune) walkBackups(ctx context.Context, refs []BackupRef, wanted func(*Manifest) bool, w *recipeWalk, whole func(at int)) (map[string]bool, error) {
	there := make(map[string]bool, len(refs))
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := p.v.eachManifest(ctx, refs, func(ref BackupRef, m *Manifest) {
		there[fullName(ref)] = true
		if failed != nil || !wanted(m) {
			return
		}
		err := w.backup(ctx, m)
		switch {
		case err == nil:
		case unusable(err), errors.Is(err, ErrNewer), errors.Is(err, obs.ErrNotFound):
			p.o.Warn(fmt.Errorf("a recipe of backup %s can't be read, so no pack of the backup is rewritten: %w", fullName(ref), err))
			for _, pack := range m.Packs {
				p.eachPlace(pack.ID, 0, whole)
			}
		default:
			failed = err
			cancel()
		}
	})
	if failed != nil {
		err = failed
	}
	return there, err
}

// eachPlace calls f with the places in the list of a pack and of all packs into which its chunks
// were moved.
func (p *prune) eachPlace(id PackID, moves int, f func(at int)) {
	if at, listed := p.packs.find(id); listed {
		f(at)
	}
	if moves == maxMoves {
		return
	}
	for _, to := range p.moves.to[id] {
		for _, next := range to {
			p.eachPlace(next, moves+1, f)
		}
	}
}

const (
	// liveBlocksOfPack is in how many blocks a pack is divided to
	// estimate how much of it is needed.
	liveBlocksOfPack = 2048
	liveWords        = liveBlocksOfPack / 64
	// maxLooked is how many packs are looked at in one run, for which the estimates take 64 MiB.
	maxLooked = 1 << 18
)

// liveBlocks tells which blocks of packs hold a needed chunk, or a part of one: at
// least so much of a pack is needed as its chunks, and hardly more than the blocks.
type liveBlocks struct {
	set   *packSet
	first int    // place of the first pack that is looked at; others follow, behind the last the first
	n     int    // packs that are looked at
	block uint32 // bytes
	bits  []uint64
}

func newLiveBlocks(set *packSet, pack int, first int) *liveBlocks {
	n := min(len(set.ids), maxLooked)
	return &liveBlocks{set: set, first: first, n: n, block: uint32(max(1, pack/liveBlocksOfPack)), bits: make([]uint64, n*liveWords)}
}

// of returns the bits of the pack at a place; nil where the pack is not looked at.
func (l *liveBlocks) of(at int) []uint64 {
	if at -= l.first; at < 0 {
		at += len(l.set.ids)
	}
	if at >= l.n {
		return nil
	}
	return l.bits[at*liveWords:][:liveWords]
}

// mark notes a needed chunk.
func (l *liveBlocks) mark(at int, off, n uint32) {
	b := l.of(at)
	if b == nil {
		return
	}
	first, last := off/l.block, (off+max(n, 1)-1)/l.block
	if last >= liveBlocksOfPack {
		l.whole(at)
		return
	}
	for i := first; i <= last; i++ {
		b[i/64] |= 1 << (i % 64)
	}
}

// whole notes that all of a pack may be needed.
func (l *liveBlocks) whole(at int) {
	for i := range l.of(at) {
		l.of(at)[i] = ^uint64(0)
	}
}

// bytes is how many bytes of a pack are needed, at most.
func (l *liveBlocks) bytes(at int) int64 {
	n := 0
	for _, word := range l.of(at) {
		n += bits.OnesCount64(word)
	}
	if n == liveBlocksOfPack {
		return int64(l.set.sizes[at])
	}
	return min(int64(n)*int64(l.block), int64(l.set.sizes[at]))
}
