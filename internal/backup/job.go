package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/contain"
	"holdfast/internal/vault"
)

// Job ties together the Runs of one job in one vault: the rounds of pre-copy, and the backup. All
// of them are under one session, so facts that one Run found out about packs in the store count for
// the later Runs, and the backup, while an instance stands still for it, looks only at packs that
// no round named. A collector waits for the end of the job. Runs of a job come one after the other.
type Job struct {
	sessions *sessions // of the host

	mu      sync.Mutex
	session *session      // nil: not begun, or gone
	naming  *vault.Naming // of the instance of the job; nil: none
	sampled int           // chunks that were read back
	reused  int           // of those, chunks that the vault had before the job
	// stored has the packs that earlier Runs of the job stored. They were read
	// back then, so they are not read back as packs that the vault had before.
	stored map[vault.PackID]bool
	// condemned has the packs that any session of the job found condemned. None of them is used
	// any more: a pack that was about to be deleted may still be found for a while.
	condemned []vault.PackID
}

// End ends the session of the job. It is idempotent.
func (j *Job) End(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var failed error
	if j.naming != nil {
		failed = j.naming.End(ctx)
		j.naming = nil
	}
	ended := j.session
	j.session = nil
	if ended == nil {
		return failed
	}
	return errors.Join(failed, j.sessions.leave(ctx, ended))
}

// under returns the session of the job, and begins one where there is none.
func (j *Job) under(ctx context.Context, v *vault.Vault, o vault.SessionOptions) (*session, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.session != nil {
		return j.session, nil
	}
	var begun *session
	var g contain.Group
	g.Go(func() (err error) { begun, err = j.sessions.begin(ctx, v, o); return err })
	g.Go(func() (err error) {
		if j.naming, err = v.Name(ctx, o); err != nil && o.Warn != nil {
			o.Warn(fmt.Errorf("other hosts are not told yet that the backup is under way: %w", err))
		}
		return nil // a backup that nobody knows of is a backup
	})
	if err := g.Wait(); err != nil {
		if j.naming != nil {
			err = errors.Join(err, j.naming.End(ctx))
			j.naming = nil
		}
		return nil, err
	}
	j.session = begun
	j.condemned = append(j.condemned, begun.Condemned()...)
	return begun, nil
}

// avoided returns the packs that the job does not use since a collector condemned them.
func (j *Job) avoided() []vault.PackID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.condemned)
}

// addStored notes packs that a Run of the job stored and read back.
func (j *Job) addStored(packs []vault.PackRef) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.stored == nil {
		j.stored = map[vault.PackID]bool{}
	}
	for _, p := range packs {
		j.stored[p.ID] = true
	}
}

// before returns the packs that no Run of the job stored.
func (j *Job) before(packs []vault.PackRef) []vault.PackRef {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(packs, func(p vault.PackRef) bool { return j.stored[p.ID] })
}

// lost is called when the session turned out to be gone: the next Run begins another.
func (j *Job) lost(ctx context.Context) error {
	j.mu.Lock()
	gone := j.session
	j.mu.Unlock()
	if gone != nil {
		j.sessions.retire(gone)
	}
	return j.End(ctx)
}

// addSampled adds up the chunks that the Runs of the job read back.
func (j *Job) addSampled(chunks int, reused bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sampled += chunks
	if reused {
		j.reused += chunks
	}
}

func (j *Job) sampledSoFar() (total, reused int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sampled, j.reused
}
