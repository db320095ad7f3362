package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// Writers prolong the locks of the packs that their backups name. A prune can do the same for all
// backups at once: where writers of an earlier version left short locks, and where the store
// refused a writer.

// prolongLocks makes the lock of each pack end no earlier than the lock of any manifest that names
// it. It takes a request for each manifest, and one for each pack that a locked manifest names.
func (p *prune) prolongLocks(ctx context.Context) (bool, error) {
	retain := p.v.st.Capabilities().Retain
	if !p.o.ProlongLocks || retain == 0 {
		return false, nil
	}
	refs, err := p.v.Backups(ctx, "")
	if err != nil {
		return false, err
	}
	locked, latest, err := p.lockedBackups(ctx, refs)
	if err != nil {
		return false, err
	}
	need := make([]uint32, len(p.packs.ids)) // seconds since 1970; 0: no locked manifest names the pack
	err = p.v.eachManifest(ctx, locked, func(ref BackupRef, m *Manifest) {
		for _, pack := range m.Packs {
			p.eachPlace(pack.ID, 0, func(at int) { need[at] = max(need[at], latest[fullName(ref)]) })
		}
	})
	if err != nil {
		return false, err
	}
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for at, until := range need {
		if until == 0 {
			continue
		}
		g.Go(func() error {
			short, err := p.prolongLock(gctx, p.packs.ids[at], time.Unix(int64(until), 0), retain)
			mu.Lock()
			defer mu.Unlock()
			if short {
				p.report.Prolonged++
			}
			if err != nil && short {
				p.report.Prolonged--
				p.report.Unprotected++
				p.o.Warn(err)
				return nil
			}
			return err
		})
	}
	return false, g.Wait()
}

// lockedBackups returns the backups whose manifests are locked, and the ends of their locks by
// instance/id, in seconds since 1970.
func (p *prune) lockedBackups(ctx context.Context, refs []BackupRef) ([]BackupRef, map[string]uint32, error) {
	var locked []BackupRef
	latest := map[string]uint32{}
	now := p.o.Now()
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, ref := range refs {
		g.Go(func() error {
			info, err := p.v.st.Stat(gctx, p.v.manifestKey(ref.Instance, ref.ID))
			if errors.Is(err, obs.ErrNotFound) {
				return nil
			} else if err != nil {
				return fmt.Errorf("look at the lock of backup %s: %w", fullName(ref), err)
			}
			if info.RetainUntil.After(now) {
				mu.Lock()
				defer mu.Unlock()
				locked = append(locked, ref)
				latest[fullName(ref)] = uint32(info.RetainUntil.Add(time.Second - 1).Unix()) //nolint:gosec // until 2106
			}
			return nil
		})
	}
	return locked, latest, g.Wait()
}

// prolongLock prolongs the lock of a pack that ends before until. short says that it does; with an
// error it still does, since the store refuses.
func (p *prune) prolongLock(ctx context.Context, id PackID, until time.Time, retain time.Duration) (short bool, err error) {
	key := p.v.packKey(id)
	info, err := p.v.st.Stat(ctx, key)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return false, nil // count tells of missing packs
	case err != nil:
		return false, fmt.Errorf("look at pack %s: %w", id, err)
	case !info.RetainUntil.Before(until):
		return false, nil
	case p.o.DryRun:
		return true, nil
	}
	if later := p.o.Now().Add(packRetention(retain)); later.After(until) {
		until = later // so that it need not be prolonged each time
	}
	switch err := p.v.st.Extend(ctx, key, until); {
	case err == nil:
		return true, nil
	case errors.Is(err, obs.ErrNotFound):
		return false, nil
	case errors.Is(err, obs.ErrAccess), errors.Is(err, errors.ErrUnsupported), errors.Is(err, obs.ErrUsage):
		return true, fmt.Errorf("pack %s is locked until %s only, and the store refuses a longer lock, so it can be deleted while a backup that needs it is locked: %w",
			id, lockText(info.RetainUntil), err)
	default:
		return false, fmt.Errorf("prolong the lock of pack %s: %w", id, err)
	}
}
