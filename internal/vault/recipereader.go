package vault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast/internal/contain"
	"holdfast/internal/vault/format"
)

// How a recipe is read. Its pages lie in runs, but in a chain of backups a
// recipe has pages of all of them, in turns; so many references are looked
// at together, and neighbours in a pack are fetched with one request.
const (
	// batchRefs and batchBytes (sealed) bound the pages that are looked at together. Two
	// batches are in memory: one is fetched while the caller works on the batch before.
	batchRefs  = 1024
	batchBytes = 2 << 20
	// runGap is how many unneeded bytes between two pages are read
	// rather than ask twice, and batchGaps how many in a batch.
	runGap    = 64 << 10
	batchGaps = 2 << 20
	// batchRequests of a batch are in flight.
	batchRequests = 8
	// listsAtOnce is how many page lists are in memory: with all their references at most 4 MiB.
	listsAtOnce = 256
)

// Items reads the recipe of a volume, in order, a page at a time. The slice is each's to keep.
func (v *Vault) Items(ctx context.Context, vol *Volume, each func([]Item) error) error {
	all := func(lists [][]PageRef) ([]PageRef, error) { return slices.Concat(lists...), nil }
	return v.readPages(ctx, vol.Lists, all, func(_ int, ref PageRef, plain []byte) error {
		items, err := v.decodePage(plain)
		if err != nil {
			return v.badMeta(ref, err)
		}
		return each(items)
	})
}

// readPages reads lists, an even number of them at once, and then what pages makes
// of them, and calls each with every page in order, counted from an even number.
func (v *Vault) readPages(ctx context.Context, lists []PageRef, pages func([][]PageRef) ([]PageRef, error), each func(int, PageRef, []byte) error) error {
	for some := range slices.Chunk(lists, listsAtOnce) {
		decoded := make([][]PageRef, len(some))
		err := v.readMeta(ctx, some, func(i int, ref PageRef, plain []byte) error {
			var list pageList
			if err := decMode.Unmarshal(plain, &list); err != nil {
				return v.badMeta(ref, pageError(err))
			}
			decoded[i] = list.Pages
			return nil
		})
		if err != nil {
			return err
		}
		refs, err := pages(decoded)
		if err != nil {
			return err
		}
		if err := v.readMeta(ctx, refs, each); err != nil {
			return err
		}
	}
	return nil
}

// readMeta reads Meta chunks and calls each with the number, the reference and the plaintext
// of every one, in order, on the caller's goroutine. The plaintext is each's to keep.
func (v *Vault) readMeta(ctx context.Context, refs []PageRef, each func(int, PageRef, []byte) error) error {
	for _, r := range refs {
		if err := v.checkLoc(Meta, r.Loc()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := contain.WithContext(ctx)
	batches := make(chan *metaBatch)
	g.Go(func() error {
		defer close(batches)
		for left := refs; len(left) > 0; {
			b, err := v.fetchBatch(ctx, left)
			if err != nil {
				return err
			}
			left = left[len(b.refs):]
			select {
			case batches <- b:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	at := 0
	for b := range batches {
		if err := v.openBatch(ctx, b, at, each); err != nil {
			cancel()
			_ = g.Wait() // only because of err
			return err
		}
		at += len(b.refs)
	}
	err := g.Wait()
	cancel()
	return err
}

// metaBatch is a number of chunks whose sealed bytes were fetched.
type metaBatch struct {
	refs   []PageRef
	sealed [][]byte // of each; two may share bytes
}

// fetchBatch fetches the first of refs: as many as a batch may have, one at the least.
func (v *Vault) fetchBatch(ctx context.Context, refs []PageRef) (*metaBatch, error) {
	n, size := 0, 0
	for n < len(refs) && n < batchRefs && (n == 0 || size+int(refs[n].Len) <= batchBytes) {
		size += int(refs[n].Len)
		n++
	}
	b := &metaBatch{refs: refs[:n], sealed: make([][]byte, n)}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Or(bytes.Compare(refs[i].Pack[:], refs[j].Pack[:]), cmp.Compare(refs[i].Off, refs[j].Off))
	})
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(batchRequests)
	gaps := 0
	for len(order) > 0 {
		first := refs[order[0]]
		k, end := 0, first.Off
		for ; k < len(order); k++ {
			r := refs[order[k]]
			gap := max(0, int(r.Off)-int(end))
			if r.Pack != first.Pack || gap > runGap || gaps+gap > batchGaps {
				break
			}
			gaps += gap
			end = max(end, r.Off+r.Len)
		}
		run := make([]byte, end-first.Off)
		for _, i := range order[:k] {
			b.sealed[i] = run[refs[i].Off-first.Off:][:refs[i].Len]
		}
		order = order[k:]
		g.Go(func() error {
			if err := v.ReadRun(ctx, first.Pack, run, first.Off); err != nil {
				return fmt.Errorf("read recipe: %w", err)
			}
			return nil
		})
	}
	return b, g.Wait()
}

func (v *Vault) openBatch(ctx context.Context, b *metaBatch, at int, each func(int, PageRef, []byte) error) error {
	var sealed []byte
	for i, r := range b.refs {
		sealed = append(sealed[:0], b.sealed[i]...) // opening destroys it, and two may be one
		plain, err := v.Opener(r.Pack).Open(Meta, r.Loc(), sealed, nil)
		if err != nil {
			if plain, err = v.Again(ctx, Meta, r.Loc(), err); err != nil {
				return err
			}
		}
		if err := each(at+i, r, plain); err != nil {
			return err
		}
	}
	return nil
}

func (v *Vault) badMeta(r PageRef, err error) error {
	if format.IsNewer(err) {
		return err
	}
	return &CorruptError{Object: v.packKey(r.Pack), Reason: fmt.Sprintf("recipe page at byte %d: %s", r.Off, err)}
}
