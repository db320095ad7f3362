// Package backup is the way from volumes to a backup in a vault: walk, read, cut, name, skip
// known content, compress, seal, upload, and at the end the manifest that makes it exist.
//
// The package known beside it finds out what need not be read, and blockshare which blocks of
// images another backup has read. The files build on each other: options and pool, the types of
// the engine (run.go, pipeline.go), the readers, walk.go and record.go, attempt.go, and Run.
//
// The agent's jobs and the CLI call Run, which starts goroutines and waits for all
// of them. Memory is bounded by Options.Budget, however large a volume is. A crash
// leaves packs that no manifest names, which a later Run with Options.Resume uses.
package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/backup/blockshare"
	"holdfast/internal/evidence"
	"holdfast/internal/pattern"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

const defaultSample = 16

// Run makes a backup. When it returns nil, every pack and recipe was confirmed by the
// store, a sample of the new chunks was opened, and then the manifest was written and
// read back (Invariant manifest-last). After an error no backup of this run exists,
// unless the outcome of writing or reading back the manifest is not known.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := vault.CheckInstance(o.Instance); err != nil {
		return nil, err
	}
	if len(o.Sources) == 0 {
		return nil, fmt.Errorf("back up %s: it has no volume", o.Instance)
	}
	seen := map[string]bool{}
	for _, s := range o.Sources {
		// A restore makes a folder of each name.
		if vault.CheckInstance(s.Volume) != nil || seen[s.Volume] {
			return nil, fmt.Errorf("back up %s: volume name %q is not allowed, or comes twice", o.Instance, s.Volume)
		}
		seen[s.Volume] = true
		for _, patterns := range [][]string{s.Exclude, s.AcceptLosses} {
			if _, err := pattern.Compile(patterns); err != nil {
				return nil, fmt.Errorf("back up %s: volume %s: %w", o.Instance, s.Volume, err)
			}
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Clock == nil {
		o.Clock = evidence.ClockOffset
	}
	if o.MinLevel == 0 {
		o.MinLevel = seal.Fastest
	}
	if o.MaxLevel == 0 {
		o.MaxLevel = seal.Default
	}
	o.MaxLevel = max(o.MinLevel, o.MaxLevel)
	if o.Pool == nil {
		o.Pool = NewPool(PoolOptions{Budget: o.Budget, Workers: o.Workers, MaxLevel: o.MaxLevel, Pack: o.Vault.Params().Pack})
	}
	if o.Sample == 0 {
		o.Sample = defaultSample
	}
	res, err := untilWhole(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", o.Instance, err)
	}
	return res, nil
}

// untilWhole makes a backup, and makes it again when its session was gone, which is
// tried once, or when it turned out that somebody had removed packs from the bucket.
// Their content has to be read and stored again; the old backups that rest on them
// are lost, which verify tells. Where other packs with the same content are gone too,
// that shows only then; each try leaves out more packs, and its own packs are there.
func untilWhole(ctx context.Context, o Options) (*Result, error) {
	job, ended := o.Job, o.Job != nil // by this function, or by the caller
	if job == nil {
		job = o.Pool.BeginJob()
	}
	defer func() {
		if !ended { // a panic is on its way: nothing may go on to tell other hosts of this backup
			_ = job.End(context.WithoutCancel(ctx))
		}
	}()
	var lost lostPacks
	var notes []string // of what made it begin again
	var drifts []*DriftError
	again := false
	for try := 0; ; try++ {
		if o.Begin != nil {
			o.Begin()
		}
		res, err := once(ctx, o, job, lost.ids(), try == 0)
		if missing, ok := errors.AsType[*vault.MissingPacksError](err); ok {
			lost.add(o, missing.Packs)
			if _, own := errors.AsType[rejected](err); own {
				lost.rejected++
			}
			if lost.rejected < 2 {
				continue
			}
			lost.forget(ctx, o)
		}
		if errors.Is(err, vault.ErrSessionGone) && !again {
			again = true
			continue
		}
		if drift, ok := errors.AsType[*DriftError](err); ok {
			// Happens once a volume: then nothing is known of it.
			o.Pool.distrusted.Add(o.Vault, o.Instance, drift.Volume, drift.By)
			o.Sources = slices.Clone(o.Sources)
			for i := range o.Sources {
				o.Sources[i].readAll = o.Sources[i].readAll || o.Sources[i].Volume == drift.Volume
			}
			drifts = append(drifts, drift)
			if o.Drifted != nil {
				o.Drifted(drift)
			}
			notes = append(notes, drift.Error()+"; the volume is read whole. Verify this instance's earlier backups")
			continue
		}
		if errors.Is(err, blockshare.ErrBlocksDiffer) { // happens once: nothing is shared from then on
			notes = append(notes, err.Error()+"; each image is read whole until this program is started again. Verify this instance's earlier backups")
			continue
		}
		if err == nil {
			res.Drifts, res.Damaged = drifts, lost.damaged()
			notes = append(notes, lost.notes(o.Vault.Info().ID)...)
		}
		if !ended {
			ended = true
			if err := job.End(ctx); err != nil {
				notes = append(notes, err.Error()+"; the next backup of this host tries again")
			}
		}
		for _, what := range notes {
			w := tree.Warning{NoPlace: true, What: what}
			if err == nil {
				res.Warnings, res.WarningCount = append(res.Warnings, w), res.WarningCount+1
			}
			if o.Warn != nil {
				o.Warn(w)
			}
		}
		return res, err
	}
}
