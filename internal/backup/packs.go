package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/vault"
)

// How a backup treats the packs that it needs: it looks whether the store has them, reads a
// sample back, and when a pack can't be used, the backup is made again without that pack.

// rejected says that packs which this Run stored do not read back as they were stored.
type rejected struct{ *vault.MissingPacksError }

func (e rejected) Unwrap() error { return e.MissingPacksError }

func (e rejected) Error() string {
	return fmt.Sprintf("the store does not give back what it confirmed: %s", e.MissingPacksError)
}

// sampleNew reads back a sample of the packs that this Run stored:
// no backup comes to be whose packs do not open.
func (r *run) sampleNew(ctx context.Context, added []vault.PackRef) error {
	if r.o.Sample < 0 || len(added) == 0 {
		return nil
	}
	found, err := r.o.Vault.Sample(ctx, added, r.o.Sample)
	if err != nil {
		return err
	}
	if found.Denied != nil { // a host that may not read its newest packs may not read at all
		return fmt.Errorf("read back what was stored: %w", found.Denied)
	}
	r.job.addSampled(found.Chunks, false)
	if len(found.Lost) > 0 {
		return rejected{&vault.MissingPacksError{Vault: r.o.Vault.Info().ID, Packs: found.Lost}}
	}
	r.job.addStored(added)
	return nil
}

// sampleReused reads back a sample of the packs that the vault had before, those
// first whose turn on this host came longest ago: half as many chunks as of new
// packs, or as many where this Run stored nothing. It returns the packs that can't be
// used. Of a job whose rounds did so already, nothing is left for the backup to do.
func (r *run) sampleReused(ctx context.Context) ([]vault.LostPack, error) {
	_, before := r.job.sampledSoFar()
	if r.o.Sample < 0 || before > 0 && !r.o.Precopy && r.first {
		return nil, nil
	}
	n := r.o.Sample
	if begun, _, _ := r.w.Waits(); begun > 0 {
		n = (n + 1) / 2
	}
	reused, err := r.packs.Reused()
	if err != nil {
		return nil, err
	}
	packs := r.o.Vault.LongestUnsampled(r.o.IndexDir, r.job.before(reused), n)
	if len(packs) == 0 {
		return nil, nil
	}
	found, err := r.o.Vault.Sample(ctx, packs, n)
	if err != nil {
		return nil, err
	}
	r.o.Vault.NoteSampled(r.o.IndexDir, packs)
	r.job.addSampled(found.Chunks, true)
	return found.Lost, nil
}

// refs returns the packs of the backup, all of which the
// store has. reused waits for the sample of the older packs.
func (r *run) refs(ctx context.Context, reused func() ([]vault.LostPack, error)) ([]vault.PackRef, error) {
	lost, err := reused()
	if err != nil {
		return nil, err
	}
	refs, err := r.packs.Refs(ctx)
	missing, ok := errors.AsType[*vault.MissingPacksError](err)
	if err != nil && !ok {
		return nil, err
	}
	if ok {
		lost = slices.Concat(lost, missing.Packs)
	}
	if len(lost) > 0 {
		return nil, &vault.MissingPacksError{Vault: r.o.Vault.Info().ID, Packs: lost}
	}
	return refs, nil
}

// lostPacks are the packs that the tries of one backup found that they can't use.
type lostPacks struct {
	packs    []vault.LostPack
	rejected int // tries whose own packs did not read back
}

// add notes packs, and tells about damaged packs.
func (l *lostPacks) add(o Options, packs []vault.LostPack) {
	for _, p := range packs {
		if slices.ContainsFunc(l.packs, func(old vault.LostPack) bool { return old.ID == p.ID }) {
			continue
		}
		l.packs = append(l.packs, p)
		if o.Damaged != nil && !p.Whole {
			o.Damaged(p)
		}
	}
}

func (l *lostPacks) ids() []vault.PackID {
	ids := make([]vault.PackID, len(l.packs))
	for i, p := range l.packs {
		ids[i] = p.ID
	}
	return ids
}

// damaged are the packs that can't be used because something is wrong with them.
func (l *lostPacks) damaged() []vault.LostPack {
	return slices.DeleteFunc(slices.Clone(l.packs), func(p vault.LostPack) bool { return p.Whole })
}

// notes describes the packs for the warnings of a backup that was made without them.
func (l *lostPacks) notes(vaultID string) (notes []string) {
	damaged := l.damaged()
	if len(damaged) > 0 {
		what := &vault.MissingPacksError{Vault: vaultID, Packs: damaged}
		notes = append(notes, what.Error()+"; what this backup needed of them was stored anew. Earlier backups may need them: run holdfast verify")
	}
	intact := slices.DeleteFunc(slices.Clone(l.packs), func(p vault.LostPack) bool { return !p.Whole })
	if len(intact) > 0 {
		notes = append(notes, fmt.Sprintf("the locks of %d packs can't be prolonged, so their content was stored anew; the first is %s. "+
			"Allow these credentials to prolong locks (s3:PutObjectRetention)", len(intact), intact[0]))
	}
	return notes
}

// forgetTime bounds how long a backup that failed tries to take packs out of the index.
const forgetTime = 10 * time.Second

// forget takes the packs out of the index after a backup that failed
// because the store does not return confirmed packs. Bad packs that
// stay in the index the next backup finds when it samples them.
func (l *lostPacks) forget(ctx context.Context, o Options) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTime)
	defer cancel()
	_ = o.Vault.ForgetPacks(ctx, o.IndexDir, l.ids())
}
