package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Sampled is the result of a sample.
type Sampled struct {
	Chunks int        // that were read and compared with their names
	Lost   []LostPack // packs of which a chunk, or the table, can't be read or does not open
	Denied error      // an obs.ErrAccess, when that is why one of Lost can't be read
}

// Sample reads n chunks of the packs, in runs at random places, and compares
// each with its name, to see whether the store gives back confirmed packs.
// Its error tells why it could not look, and never reports damage.
func (v *Vault) Sample(ctx context.Context, packs []PackRef, n int) (Sampled, error) {
	// Side by side: an instance is held meanwhile, and a store is a round trip away.
	picked := rand.Perm(len(packs))[:min(n, len(packs))]
	want := max(1, n/max(len(packs), 1))
	var found Sampled
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(sampleInFlight)
	for _, i := range picked {
		g.Go(func() error {
			chunks, err := v.sampleTwice(gctx, packs[i], want)
			mu.Lock()
			defer mu.Unlock()
			found.Chunks += chunks
			if err != nil && unusable(err) {
				found.Lost = append(found.Lost, v.Lost(packs[i].ID, err))
				if errors.Is(err, obs.ErrAccess) {
					found.Denied = err
				}
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	return found, err
}

// unusable tells whether err is about the object and not about the way to the store.
func unusable(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, obs.ErrNotFound) || errors.Is(err, obs.ErrCold) || errors.Is(err, obs.ErrAccess)
}

// sampleTwice samples one pack, and once more when something does
// not open: bytes may have changed on the way.
func (v *Vault) sampleTwice(ctx context.Context, p PackRef, want int) (int, error) {
	chunks, err := v.samplePack(ctx, p, want)
	if errors.Is(err, ErrCorrupt) {
		chunks, err = v.samplePack(ctx, p, want)
	}
	if err != nil {
		return chunks, fmt.Errorf("sample pack %s: %w", p.ID, err)
	}
	return chunks, nil
}

// samplePack reads that many chunks of one pack.
func (v *Vault) samplePack(ctx context.Context, p PackRef, want int) (int, error) {
	rows, err := v.packTable(ctx, p.ID, p.Size)
	if err != nil {
		return 0, err
	}
	var read atomic.Uint64
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(sampleInFlight)
	for _, run := range sampleRuns(rows, want) {
		g.Go(func() error {
			chunks, err := v.verifyRows(ctx, p.ID, run)
			read.Add(chunks)
			return err
		})
	}
	err = g.Wait()
	return int(read.Load()), err
}

const (
	// sampleInFlight is how many packs of a sample are read at once, and how many runs of one pack.
	sampleInFlight = 8
	// sampleRun is how many neighbours of a sample are read with one request at most: the
	// requests of a hundred small backups are the work of the store, and neighbours tell
	// as much as chunks from everywhere, except about damage that is smaller than a run.
	sampleRun = 8
)

// sampleRuns picks want of the rows, or all: runs of neighbours,
// each at a random place of an equal part of the pack.
func sampleRuns(rows []Row, want int) (runs [][]Row) {
	want = min(want, len(rows))
	parts := (want + sampleRun - 1) / sampleRun
	for p := range parts {
		part := rows[p*len(rows)/parts : (p+1)*len(rows)/parts]
		n := min((p+1)*want/parts-p*want/parts, len(part))
		at := rand.IntN(len(part) - n + 1)
		runs = append(runs, part[at:at+n])
	}
	return runs
}

// ReadChunkTwice is ReadChunk, and reads once more when the chunk does not open: bytes may
// have changed on the way. lost says that the store answered, and the pack can't be used.
func (v *Vault) ReadChunkTwice(ctx context.Context, kind ChunkKind, loc Loc) (plain []byte, lost bool, err error) {
	plain, err = v.ReadChunk(ctx, kind, loc)
	if errors.Is(err, ErrCorrupt) {
		plain, err = v.ReadChunk(ctx, kind, loc)
	}
	return plain, err != nil && unusable(err), err
}
