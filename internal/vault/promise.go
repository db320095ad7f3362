package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/obs"
)

// A confirmed manifest is no promise yet: while the writer slept, an operator may have removed its
// session, and a collector may have deleted packs that the manifest names. This file has the looks
// that come after the confirmed manifest. Only they make a backup (FORMAT.md, Garbage).

// sessionThere tells whether collectors count a session as there: the object of the session is in
// the store, and no mark tells of its end. The look for the mark comes first: a collector deletes
// the session before the mark, so the second look misses a session whose mark is gone already.
func (v *Vault) sessionThere(ctx context.Context, id string) (bool, error) {
	key := v.sessionsPrefix() + id
	ended, err := v.sessionStored(ctx, key+endedSuffix)
	if err != nil || ended {
		return false, err
	}
	return v.sessionStored(ctx, key)
}

// sessionStored tells whether an object in the folder of the sessions is in the store.
func (v *Vault) sessionStored(ctx context.Context, key string) (bool, error) {
	_, err := v.st.Stat(ctx, key)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at session: %w", err)
	}
	return true, nil
}

// promise is called with a manifest that the store confirmed. nil says that the backup is made:
// every pack of the backup stays until the manifest is deleted. ErrSessionGone says that packs may
// be lost, so that the manifest has to be taken away. Any other error says that the store could not
// be asked. Without a session promise has nothing to look for.
func (v *Vault) promise(ctx context.Context, d *doubt) error {
	if d.session == nil {
		return nil
	}
	there, err := v.sessionThere(ctx, d.session.id)
	if err != nil || there {
		return err
	}
	return v.lookLonger(ctx, d.session.options, d.packs)
}

// lookLonger decides whether a confirmed manifest, whose session is gone, is a promise all the
// same. lookLonger looks under a new session. Where a collector condemned a pack of the manifest
// before, lookLonger finds the condemnation, or does not find the pack. A collector that condemns a
// pack of the manifest later waits for the new session and reads the manifest.
func (v *Vault) lookLonger(ctx context.Context, o SessionOptions, packs []PackRef) (err error) {
	s, err := v.putSession(ctx, kindWriter, o, observe(o).process)
	if err != nil {
		return err
	}
	defer func() {
		if serr := s.End(ctx); serr != nil && o.Warn != nil {
			o.Warn(serr)
		}
	}()
	condemned, err := v.readCondemned(ctx)
	if err != nil {
		return err
	}
	for _, p := range packs {
		if _, found := slices.BinarySearchFunc(condemned, p.ID, comparePacks); found {
			return fmt.Errorf("%w, and pack %s is about to be deleted", ErrSessionGone, p.ID)
		}
	}
	// The vault may have been erased meanwhile.
	for _, look := range []func() error{
		func() error { return v.packsPresent(ctx, packs, false) },
		func() error { return v.Confirm(ctx, o.Mended) },
	} {
		if err := look(); errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%w, and since then: %w", ErrSessionGone, err)
		} else if err != nil {
			return err
		}
	}
	there, err := v.sessionThere(ctx, s.id)
	if err == nil && !there {
		return ErrSessionGone
	}
	return err
}

// keep makes a backup of a manifest that the store confirmed, or takes the manifest away. An error
// that is ErrMayExist left a doubt in the ledger; ErrSessionGone says that the backup has to be
// made again.
func (v *Vault) keep(ctx context.Context, d *doubt) error {
	within, cancel := v.hasty(ctx)
	defer cancel()
	err := v.promise(within, d)
	if err == nil {
		return nil
	}
	d.withdraw = errors.Is(err, ErrSessionGone)
	if d.withdraw {
		derr := v.st.Delete(within, d.key)
		if derr == nil {
			return err
		}
		// Not an ErrSessionGone: another backup would not take this manifest away.
		err = fmt.Errorf("the packs of the backup may be lost (%s), and its manifest can't be taken away: %w", err, derr) //nolint:errorlint // on purpose
	}
	v.ledger.add(d)
	return fmt.Errorf("%w; %w: manifest %s of instance %s is stored, and nobody knows whether its packs stay",
		err, ErrMayExist, d.backup.ID, d.backup.Instance)
}

// hasty is the context for requests that must be tried although ctx has ended: an instance may be
// held until its job knows whether the backup is made.
func (v *Vault) hasty(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), hastyEnd)
}
